"""A recipe is found wrong before anything is done."""

import re
from pathlib import Path

import pytest

from twotower.config import dump_yaml
from twotower.errors import ConfigError
from twotower.pipeline.recipe import Recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes").glob("*.yaml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_the_named_recipes_are_sound_and_named_after_their_file(path):
    assert Recipe.load(path).name == path.stem


def test_the_resolved_recipe_parses_back(tiny, tmp_path):
    recipe = Recipe.parse(tiny())
    (tmp_path / "r.yaml").write_text(dump_yaml(recipe.plain()))
    assert Recipe.load(tmp_path / "r.yaml") == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("modles={}", "r.yaml: unknown key 'modles'; did you mean 'models'"),
        ("models={}", r"stage 0 names the model 'retriever'; models: \[\]"),
        ("name=../etc", "name: "),
        ("models.ranker.model=dcn-v3", "no model is called 'dcn-v3'; did you mean 'dcn-v2'"),
        ("models.ranker.model=nowhere.at:All", "cannot import the model 'nowhere.at:All'"),
        (
            "models.ranker.config.embeding=3",
            "models.ranker.config: unknown key 'embeding'; did you mean 'embedding'",
        ),
        ("models.ranker.train.epocs=3", "models.ranker.train: unknown key 'epocs'; did you mean 'epochs'"),
        ("models.ranker.objective.kind=list", "objective.kind: found 'list'; did you mean 'lists'"),
        ("models.retriever.objective.kind=lists", "'retriever' learns from the lists of the stage before it"),
        ("cascade.1.model=rankre", "stage 1 names the model 'rankre'; models: .*'ranker'"),
        ("cascade.0.stage=rank", "starts with its one retrieve stage"),
        ("cascade.1.stage=retrieve", "starts with its one retrieve stage"),
        ("cascade.0.k=0", "cascade.0.k: .*greater than or equal to 1"),
        ("evaluate.measures=[nDGC@10]", "evaluate.measures: unknown measure 'nDGC'; did you mean 'nDCG'"),
        ("evaluate.measures=[]", "evaluate.measures"),
        ("baselines=[{name: popularty}]", "baselines.0.name"),
        ("baselines=[{name: ease, options: {lamda: 3}}]", "baseline ease: unknown option 'lamda'"),
        ("split.kind=llo", "split.kind"),
        ("split.fractions=[0.5,0.1,0.1]", "split: fractions .* must sum to 1"),
        ("data={reader: synthetic, n_itmes: 9}", "unknown key 'n_itmes'; did you mean 'n_items'"),
        ("history.max_length=0", "history.max_length"),
        ("seed=-1", "seed: "),
    ],
)
def test_what_is_wrong_is_named_with_its_place(tiny, change, message):
    with pytest.raises(ConfigError, match=message) as caught:
        Recipe.parse(tiny(change), where="r.yaml")
    assert "dcn-v2', 'features'" not in str(caught.value)  # the whole recipe is no message


def test_a_model_ranks_once(tiny):
    plain = tiny()
    plain["cascade"].append({**plain["cascade"][1], "k": 5})
    with pytest.raises(
        ConfigError, match=r"ranks in more than one stage of the cascade: \['ranker', 'ranker'\]"
    ):
        Recipe.parse(plain)


@pytest.mark.parametrize(("options", "label"), [({}, "ease"), ({"l2": 9}, "ease(l2=9)")])
def test_a_stage_may_not_take_the_row_of_a_baseline(tiny, options, label):
    plain = tiny()
    plain["baselines"] = [{"name": "popularity"}, {"name": "ease", "options": options}]
    plain["cascade"][1]["name"] = label
    with pytest.raises(ConfigError, match=rf"these are both: \['{re.escape(label)}'\]; set name:"):
        Recipe.parse(plain)
    plain["cascade"][1]["name"] = "ease(l2=10)"
    assert Recipe.parse(plain).stage_names[1] == "ease(l2=10)"


def test_measures_get_their_printed_names(tiny):
    recipe = Recipe.parse(tiny("evaluate.measures=[ndcg@10, recall@5, nDCG@10]"))
    assert recipe.evaluate.measures == ("nDCG@10", "R@5")


def test_defaults_are_sound():
    assert Recipe.parse(
        {
            "name": "least",
            "data": {"reader": "synthetic"},
            "models": {"m": {"model": "two-tower", "objective": {"kind": "in-batch"}}},
        }
    ).evaluate.measures == ("nDCG@10", "R@10")


RERANKER = {"model": "prm", "objective": {"kind": "lists"}}
RERANK = {"stage": "rerank", "model": "reranker", "k": 5}


def with_reranker(plain, about=RERANKER, stage=RERANK, at=2):
    plain["models"]["reranker"] = about
    plain["cascade"].insert(at, stage)
    return plain


@pytest.mark.parametrize("model", ["prm", "dcn-v2"])
def test_a_list_or_joint_model_reranks(tiny, model):
    recipe = Recipe.parse(with_reranker(tiny(), {**RERANKER, "model": model}))
    assert [stage.stage for stage in recipe.cascade] == ["retrieve", "rank", "rerank"]


@pytest.mark.parametrize(
    ("made", "message"),
    [
        ({"at": 1}, r"stage 1 reranks what a rank stage hands on.* behind \['retrieve'\]"),
        ({"stage": {**RERANK, "stage": "rank"}}, "prm scores whole lists, so it stands in a rerank stage"),
        ({"about": {**RERANKER, "model": "two-tower"}}, r"by a list or joint .* two-tower \(dot\) behind"),
        ({"about": {**RERANKER, "objective": {"kind": "pointwise"}}}, "objective is lists, not pointwise"),
    ],
)
def test_a_reranker_in_a_wrong_place_is_named(tiny, made, message):
    with pytest.raises(ConfigError, match=message):
        Recipe.parse(with_reranker(tiny(), **made))


def test_a_reranker_needs_a_ranker_before_it(tiny):
    plain = with_reranker(tiny())
    del plain["cascade"][1], plain["models"]["ranker"]
    with pytest.raises(ConfigError, match=r"stage 1 reranks what a rank stage hands on.*\['retrieve'\]"):
        Recipe.parse(plain)


def test_a_model_is_called_what_a_folder_may_be_called(tiny):
    plain = tiny()
    plain["models"][".."] = plain["models"]["ranker"]
    with pytest.raises(ConfigError, match=r"should match pattern"):
        Recipe.parse(plain)
