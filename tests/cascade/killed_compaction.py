"""A compaction of a funnel log that is killed: the program behind test_funnel_compaction.py.

``python killed_compaction.py FOLDER KILLS SEED``: each time a process adds a few files and compacts the
folder over and over until SIGKILL ends it at a random moment, and another one reads all, before anything is
mended: every request once. The last line of output says what was found, as JSON. This process only forks:
polars has no thread in it that a child would miss.
"""

import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import polars as pl

from twotower.cascade.funnel_compaction import compact_log
from twotower.data.funnel import Funnel
from twotower.data.funnel_part import FunnelAbout, write_part

FILES = 12
ABOUT = FunnelAbout(stages=("retrieve",))


def work(folder, number, pipe):
    """Write some files and compact by few files, then by more, until killed; a line after each step."""
    for each in range(number * FILES, (number + 1) * FILES):
        row = {"request": [str(each)], "query": [each], "item": [2], "time": [0], "stage": ["exposed"]}
        row |= {"rank": [0], "score": [1.0], "sources": [["retrieve"]], "degraded": [["rank"]]}
        path = folder / f"20260331T120000-0a1b2c3d-{each + 1:06d}.parquet"
        write_part(path, pl.DataFrame(row), ABOUT)
    size = path.stat().st_size
    os.write(pipe, b"ready\n")
    for times in range(3, 1000):
        compact_log(folder, file_bytes=times * size)
        os.write(pipe, b"compacted\n")
    time.sleep(60)


def verify(folder, number, pipe):
    funnel = Funnel(folder)
    found = sorted(map(int, funnel.rows()["request"]))
    assert found == list(range((number + 1) * FILES)), found
    merged = sum(bool(about.replaces) for about in funnel.parts.values())
    left = len(list(folder.glob("*.parquet"))) - len(funnel.parts)
    os.write(pipe, f"{len(found)} {merged} {left}\n".encode())


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
    draw = random.Random(seed)
    requests = merged_when_killed = left_over = 0
    for number in range(kills):
        child, pipe = forked(work, folder, number)
        for _ in range(draw.randint(1, 3)):
            assert pipe.readline()
        time.sleep(draw.uniform(0, 0.02))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        pipe.close()
        child, pipe = forked(verify, folder, number)
        told = pipe.read()
        assert os.waitpid(child, 0)[1] == 0
        pipe.close()
        requests, merged, left = map(int, told.split())
        merged_when_killed += merged > 0
        left_over += left > 0
    found = {"kills": kills, "requests": requests, "merged_when_killed": merged_when_killed}
    print(json.dumps(found | {"killed_between_publishing_and_removing": left_over}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
