"""Many tasks, some at a time, each in a process of one thread."""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import Any

from twotower.memory import keep_heap

Task = tuple[str, Callable[..., Any], tuple[Any, ...]]  # what it is called, and the call


def run_all(tasks: Sequence[Task], jobs: int) -> int:
    """Run tasks, ``jobs`` at a time in processes of one thread; returns how many failed.

    One that fails does not stop the others.
    """
    failed, started = 0, time.perf_counter()
    with ProcessPoolExecutor(max(jobs, 1), mp_context=get_context("spawn"), initializer=_prepare) as pool:
        running = {pool.submit(call, *arguments): name for name, call, arguments in tasks}
        for number, done in enumerate(as_completed(running), 1):
            error = done.exception()
            if error is not None:
                failed += 1
                print("".join(traceback.format_exception(error)), file=sys.stderr)
            word = "failed" if error else "done"
            passed = (time.perf_counter() - started) / 60
            print(f"{number} of {len(tasks)}, {passed:.0f} min: {running[done]} {word}", flush=True)
    return failed


def _prepare() -> None:
    """One thread, and memory that is kept, as the command line does it."""
    keep_heap()
    import torch

    torch.set_num_threads(1)
