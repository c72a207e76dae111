"""A small training run that may be killed: the program behind test_resume.py.

``python killed_run.py FOLDER PLAN`` trains into FOLDER and writes the final parameters to
``FOLDER/final.safetensors``. PLAN says where the process dies by SIGKILL (see `arrange`), or is "slow":
it then prints each step and leaves time to be killed from outside.
``python killed_run.py FOLDER PLAN PLAN ...`` does this once per plan, each in FOLDER/PLAN and in a process
forked before torch has started any thread: one interpreter start pays for all.
"""

import os
import resource
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from twotower.errors import StorageError
from twotower.train import checkpoint
from twotower.train.events import Saved, Step
from twotower.train.fit import fit
from twotower.train.optimizers import Optimizer
from twotower.train.settings import TrainSettings

ROWS, STEPS, EPOCHS = 50, 12, 3


@dataclass(frozen=True)
class Pairs:
    query: torch.Tensor
    item: torch.Tensor

    def __len__(self):
        return len(self.query)

    def to(self, device):
        return Pairs(self.query.to(device), self.item.to(device))


class Source:
    """Deterministic in (epoch, step), so it can start anywhere."""

    steps_per_epoch = STEPS

    def epoch(self, number, start_step=0):
        for step in range(start_step, STEPS):
            generator = torch.Generator().manual_seed(1000 * number + step)
            query = torch.randint(ROWS, (16,), generator=generator)
            yield Pairs(query, (query * 7 + 3) % ROWS)


class Model(nn.Module):
    """Sparse tables, a dense layer, dropout, and batch norm for its buffers."""

    def __init__(self):
        super().__init__()
        self.query, self.item = nn.Embedding(ROWS, 8, sparse=True), nn.Embedding(ROWS, 8)
        self.mlp = nn.Sequential(
            nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 8)
        )


class Sampled:
    """Softmax over one positive and sampled negatives; its generator is part of the run."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)

    def __call__(self, model, examples):
        negatives = torch.randint(ROWS, (len(examples), 4), generator=self.generator)
        items = model.item(torch.cat([examples.item[:, None], negatives], 1))
        scores = torch.einsum("BD,BKD->BK", model.mlp(model.query(examples.query)), items)
        target = torch.zeros(len(examples), dtype=torch.int64)
        return {"softmax": nn.functional.cross_entropy(scores, target), "size": 1e-3 * items.square().mean()}

    def state_dict(self):
        return {"generator": self.generator.get_state()}

    def load_state_dict(self, state):
        self.generator.set_state(state["generator"])


def validate(model):
    """A metric that wavers, so that the best model is not the last one; it uses random numbers as well."""
    noise = torch.rand(())
    rows = torch.arange(ROWS)
    scores = model.mlp(model.query(rows)) @ model.item.weight.T
    return {"hit": float(scores.gather(1, ((rows * 7 + 3) % ROWS)[:, None]).mean()) + 0.3 * float(noise)}


def train(folder, events=lambda event: None, **settings):
    torch.set_num_threads(1)
    torch.manual_seed(3)
    model = Model()
    chosen = {
        "epochs": EPOCHS,
        "checkpoint_every_steps": 5,
        "schedule": "cosine",
        "clip_norm": 1.0,
        "patience": 3,
    }
    result = fit(
        model,
        Source(),
        Sampled(),
        TrainSettings(**{**chosen, "warmup_steps": 4, "learning_rate": 0.01, **settings}),
        validate=validate,
        directory=folder,
        events=events,
    )
    parts = {"model": model.state_dict(), "history": list(result.history), "best": result.best_epoch}
    checkpoint.save_tree(folder / "final.safetensors", parts)
    return model, result


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def dying(function, call, after=False, half=False):
    """``function``, but its ``call``-th call (from 1) kills the process: before, after or halfway."""
    calls = 0

    def wrapper(*args, **kwargs):
        nonlocal calls
        calls += 1
        if calls == call and not after and not half:
            die()
        result = function(*args, **kwargs)
        if calls == call and half:
            path = args[1]
            os.truncate(path, path.stat().st_size // 2)
        if calls == call:
            die()
        return result

    return wrapper


def arrange(plan):
    """Arrange the death that ``plan`` names: a step of training, or a moment of writing a checkpoint."""
    moment, _, number = plan.partition("-")
    if moment == "step":
        step = dying(torch.autograd.backward, int(number))
        torch.autograd.backward = step
    elif moment == "write":
        checkpoint.save_file = dying(checkpoint.save_file, int(number), half=True)
    elif moment == "sync":
        checkpoint.os.fsync = dying(os.fsync, int(number))
    elif moment == "rename":
        checkpoint.os.replace = dying(os.replace, int(number))
    elif moment == "renamed":
        checkpoint.os.replace = dying(os.replace, int(number), after=True)


def slow(event):
    if isinstance(event, Step):
        print(f"step {event.step}", flush=True)
        time.sleep(0.02)


def fill_disk(folder):
    """Run 20 steps, then let no file grow past 1 KB: the next checkpoint must fail and leave the last one."""

    def shrink(event):
        if isinstance(event, Saved) and event.step >= 20:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))

    try:
        train(folder, shrink)
    except StorageError as error:
        print(error)
        return 74
    return 0


def main(folder, *wanted):
    if len(wanted) == 1:
        train(folder, slow, report_every_s=0)
        return
    Optimizer(Model(), TrainSettings())  # torch imports its compiler here: once, before the forks
    for plan in wanted:
        child = os.fork()
        if child == 0:
            place = folder / plan
            if plan == "disk":
                os._exit(fill_disk(place))
            arrange(plan)
            train(place)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        print(plan, os.waitstatus_to_exitcode(status), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
