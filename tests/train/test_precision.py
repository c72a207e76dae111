import pytest
import torch

from twotower.errors import ConfigError
from twotower.train.precision import (
    choose_device,
    random_state,
    restore_random_state,
    seeded,
    without_denormals,
)


def test_auto_states_its_reason():
    device, reason = choose_device()
    assert device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert reason.startswith("auto: ")


def test_a_device_that_is_not_there_is_told():
    with pytest.raises(ConfigError, match="'cuda:99' cannot be used"):
        choose_device("cuda:99")


def test_seeded_numbers_repeat_and_leave_no_trace():
    cpu = torch.device("cpu")
    before = torch.get_rng_state()
    draws = []
    for seed in (4, 4, 5):
        with seeded(seed, cpu):
            draws.append(torch.rand(3))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_restores_the_stream():
    cpu = torch.device("cpu")
    with seeded(0, cpu):
        state = random_state(cpu)
        first = torch.rand(3)
        restore_random_state(state, cpu)
        assert torch.equal(torch.rand(3), first)


def test_denormals_are_zero_inside_and_back_outside():
    def half_of_the_least():
        return float(torch.tensor(torch.finfo(torch.float32).tiny) / 2)

    assert half_of_the_least() > 0
    with without_denormals():
        assert half_of_the_least() == 0
        with without_denormals():
            pass
        assert half_of_the_least() == 0  # the inner one leaves the outer one's mode
    assert half_of_the_least() > 0
