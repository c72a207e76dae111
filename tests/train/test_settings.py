import pytest

from twotower.errors import ConfigError
from twotower.train.settings import TrainSettings


@pytest.mark.parametrize("name", ["log_loss", "loss/bce", "ECE", "rmse"])
def test_losses_and_errors_are_minimised(name):
    assert TrainSettings().minimises(name)


@pytest.mark.parametrize("name", ["nDCG@10", "AUC", "R@100", "RR@10", "Success@10"])
def test_ranking_measures_are_maximised(name):
    assert not TrainSettings().minimises(name)


def test_the_direction_can_be_said():
    assert TrainSettings(direction="min").minimises("AUC")
    assert not TrainSettings(direction="max").minimises("loss")


def test_total_steps():
    assert TrainSettings(epochs=3).total_steps(7) == 21
    assert TrainSettings(epochs=3, max_steps=10).total_steps(7) == 10
    assert TrainSettings(epochs=1, max_steps=10).total_steps(7) == 7
    assert TrainSettings(max_steps=10).total_steps(None) == 10
    assert TrainSettings().total_steps(None) is None


def test_reporting_does_not_decide_a_result():
    quiet, loud = TrainSettings(report_every_s=0), TrainSettings(checkpoint_every_steps=1)
    assert quiet.decisive() == loud.decisive() != TrainSettings(seed=1).decisive()


def test_an_unknown_key_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'learning_rate'"):
        TrainSettings.parse({"learning_rat": 1})
