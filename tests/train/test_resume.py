"""A run killed with SIGKILL anywhere ends, once resumed, with the bits of a run that was never killed."""

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from twotower.errors import MismatchError, StorageError
from twotower.train.checkpoint import load_tree
from twotower.train.interrupts import Interrupted
from twotower.train.settings import TrainSettings

PROGRAM = Path(__file__).parent / "killed_run.py"
PLANS = [
    "step-1",  # before anything was saved
    "step-9",  # in the middle of an epoch
    "step-30",
    "write-1",  # the very first checkpoint half written
    "write-3",  # the best model half written
    "sync-5",
    "rename-3",  # the best model complete, but not in place
    "renamed-3",  # the best model in place, the last snapshot not yet written
    "rename-4",
    "renamed-4",
    "disk",
]


@pytest.fixture(scope="module")
def program():
    return runpy.run_path(str(PROGRAM), run_name="killed_run")


@pytest.fixture(scope="module")
def uninterrupted(program, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    with one_thread():
        program["train"](folder)
    return load_tree(folder / "final.safetensors")


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """Folders of runs that died, by plan, with the exit code of each."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, str(PROGRAM), str(folder), *PLANS]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    return folder, output


class one_thread:
    """Training in this process as the program does it, without leaving a trace in torch's globals."""

    def __enter__(self):
        self.threads, self.state = torch.get_num_threads(), torch.get_rng_state()
        return self

    def __exit__(self, *_):
        torch.set_num_threads(self.threads)
        torch.set_rng_state(self.state)


def assert_same(found, expected):
    assert found["best"] == expected["best"]
    assert found["history"] == expected["history"]
    assert found["model"].keys() == expected["model"].keys()
    for name, tensor in expected["model"].items():
        assert torch.equal(found["model"][name], tensor), name


def test_the_run_is_worth_resuming(uninterrupted):
    assert uninterrupted["best"] < len(uninterrupted["history"]), "the best epoch should not be the last one"


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan != "disk"])
def test_kill_and_resume_equals_uninterrupted(plan, program, killed, uninterrupted):
    folder, output = killed
    assert f"{plan} {-signal.SIGKILL}\n" in output, output
    assert not (folder / plan / "final.safetensors").exists()
    with one_thread():
        program["train"](folder / plan)
    assert_same(load_tree(folder / plan / "final.safetensors"), uninterrupted)
    assert not list((folder / plan).glob("*.partial"))
    assert len(list((folder / plan).glob("best-*"))) == 1


def test_kill_from_outside(program, tmp_path, uninterrupted):
    command = [sys.executable, str(PROGRAM), str(tmp_path), "slow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert any(b"step 15" in line for line in process.stdout)
        os.kill(process.pid, signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / "final.safetensors").exists()
    with one_thread():
        program["train"](tmp_path)
    assert_same(load_tree(tmp_path / "final.safetensors"), uninterrupted)


def test_full_disk_keeps_the_last_checkpoint_and_the_run_can_go_on(program, killed, uninterrupted):
    folder, output = killed
    assert "could not be written" in output
    assert "what was saved before is intact" in output
    assert "disk 74\n" in output
    with one_thread():
        program["train"](folder / "disk")
    assert_same(load_tree(folder / "disk" / "final.safetensors"), uninterrupted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_signal_saves_and_says_how_to_go_on(number, program, tmp_path, uninterrupted):
    def interrupt(event):
        if event.kind == "step" and event.step == 17:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    with one_thread():
        with pytest.raises(Interrupted, match=r"epoch 2, step 17.*run the same again") as caught:
            program["train"](tmp_path, interrupt, report_every_s=0)
        assert caught.value.exit_code == 128 + number
        assert signal.getsignal(number) is before
        assert load_tree(tmp_path / "last.safetensors")["standing"]["step"] == 17
        program["train"](tmp_path)
    assert_same(load_tree(tmp_path / "final.safetensors"), uninterrupted)


def test_a_finished_run_returns_its_result_at_once(program, tmp_path):
    steps = []
    with one_thread():
        model, result = program["train"](tmp_path)
        written = (tmp_path / "last.safetensors").stat().st_mtime_ns
        again, same = program["train"](
            tmp_path, lambda e: e.kind == "step" and steps.append(e), report_every_s=0
        )
    assert not steps
    assert (tmp_path / "last.safetensors").stat().st_mtime_ns == written
    assert (same.best_value, same.history) == (result.best_value, result.history)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_other_settings_another_model_or_other_data_are_refused(program, tmp_path):
    with one_thread():
        program["train"](tmp_path, max_steps=3)
        with pytest.raises(MismatchError, match=r"learning_rate is 0.01 there and 0.5 here"):
            program["train"](tmp_path, max_steps=3, learning_rate=0.5)
        source, objective = program["Source"](), program["Sampled"]()
        settings = load_tree(tmp_path / "last.safetensors")["identity"]
        settings = TrainSettings(**{k: settings[k] for k in TrainSettings.model_fields if k in settings})
        model = program["Model"]()
        model.item = torch.nn.Embedding(60, 8)
        with pytest.raises(
            MismatchError, match=r"item.weight is \(50, 8\) float32 there and \(60, 8\) float32"
        ):
            program["fit"](
                model, source, objective, settings, validate=program["validate"], directory=tmp_path
            )
        source.steps_per_epoch = 11
        with pytest.raises(MismatchError, match="steps_per_epoch is 12 there and 11 here"):
            program["fit"](
                model, source, objective, settings, validate=program["validate"], directory=tmp_path
            )


def test_a_truncated_snapshot_is_refused_clearly(program, tmp_path):
    with one_thread():
        program["train"](tmp_path, max_steps=3)
        last = tmp_path / "last.safetensors"
        os.truncate(last, last.stat().st_size - 10)
        with pytest.raises(StorageError, match="truncated or damaged"):
            program["train"](tmp_path, max_steps=3)
