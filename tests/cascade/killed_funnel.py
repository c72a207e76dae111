"""A funnel log that is killed while it is written: the program behind test_funnel_log.py.

``python killed_funnel.py FOLDER KILLS SEED`` keeps logging requests into one directory. Each time the process
that does so is killed by SIGKILL at a random moment, another one reads all: every file must be whole, every
request with all of its candidates, and nothing may be missing that was flushed. The last line of output says
what was found, as JSON.

This process only forks: neither torch nor polars has a thread in it that a child would miss.
"""

import itertools
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import polars as pl
import torch

from twotower.cascade.funnel_log import FunnelLog
from twotower.cascade.stage import rank_pair
from twotower.cascade.trace import Step, Trace
from twotower.data.catalogue import Catalogue
from twotower.data.funnel import Funnel
from twotower.data.funnel_part import FunnelAbout
from twotower.types import Candidates

K = 30
ITEMS = Catalogue(pl.Series("item", [f"i{n}" for n in range(1000)]))


def keys(number):
    return torch.arange(number, number + K) % 1000


def write(folder, start, pipe):
    """Log until killed; a number in the pipe says that all requests before it were flushed."""
    log = FunnelLog(folder, FunnelAbout(stages=("retrieve",)), ITEMS, buffer=8 * K, seconds=0.003)
    for number in itertools.count(start):
        found = rank_pair("retrieve", Candidates(keys(number)[None], torch.zeros(1, K)))
        trace = Trace((Step("retrieve", K, 0.0, found, None),))
        while not log.record(trace, requests=[str(number)], queries=[number], times=[number]):
            log.flush()
        if number % 25 == 24:
            log.flush()
            os.write(pipe, f"{number + 1}\n".encode())


def verify(folder, flushed, pipe):
    """Read everything that is there; tells how many requests that are."""
    found = {}
    if list(folder.glob("*.parquet")):
        rows = Funnel(folder).rows()
        found = dict(rows.group_by("query", maintain_order=True).agg(pl.col("item")).iter_rows())
    assert len(found) >= flushed, f"{flushed} flushed, {len(found)} read"
    assert sorted(found) == list(range(len(found)))
    for number, items in found.items():
        assert items == ITEMS.ids(keys(number).numpy()).to_list(), f"request {number} is not whole"
    os.write(pipe, f"{len(found)}\n".encode())


def forked(function, *arguments):
    """Run a function in a process of its own, with the writing end of a pipe as its last argument."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        try:
            function(*arguments, writing)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writing)
    return child, os.fdopen(reading)


def main(folder, kills, seed):
    draw = np.random.default_rng(seed)
    done = 0
    for _ in range(kills):
        child, pipe = forked(write, folder, done)
        flushed = done
        for line in itertools.islice(pipe, int(draw.integers(0, 6))):
            flushed = int(line)
        time.sleep(float(draw.uniform(0, 0.02)))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        flushed = max([flushed, *map(int, pipe)])
        pipe.close()
        child, pipe = forked(verify, folder, flushed)
        found = pipe.read()
        assert os.waitpid(child, 0)[1] == 0, f"after {flushed} flushed requests"
        pipe.close()
        done = int(found)
    unfinished = len(list(folder.glob(".*.partial")))
    print(json.dumps({"kills": kills, "requests": done, "files_left_unfinished": unfinished}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
