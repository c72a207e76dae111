"""Text towers: is MiniLM here what it is elsewhere, what is added by words, by teaching, by sharing?

    python -m benchmarks.text_towers                            # all parts, one after the other; hours
    python -m benchmarks.text_towers untouched                  # MiniLM as published; minutes, kept in runs/
    python -m benchmarks.text_towers hybrid                     # BM25, and both fused
    python -m benchmarks.text_towers finetune --seeds 1 2 3     # MiniLM taught on SciFact's train queries
    python -m benchmarks.text_towers dual --seeds 1 2 3         # five ways to share; --collections, --shares

Data are read below ``TWOTOWER_DATA``. Every cell is one JSON in ``results/text_towers/``; one that is there
is not made again, and an interrupted training goes on. Trials with ``--steps`` stay in ``runs/``.
"""

from __future__ import annotations

import argparse
import os

import torch

from benchmarks.text.collection import READERS
from benchmarks.text.dual import SHARES, dual
from benchmarks.text.finetune import Lesson, finetune
from benchmarks.text.untouched import bm25, hybrid, untouched
from twotower.memory import keep_heap

PARTS = ("untouched", "hybrid", "finetune", "dual")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=", ".join(PARTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--collections", nargs="+", choices=tuple(READERS), default=None)
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--shares", nargs="+", choices=SHARES, default=SHARES)
    parser.add_argument("--steps", type=int, default=None, help="stop training after so many, to try it out")
    parser.add_argument("--frozen", type=int, default=0, help="finetune: lower layers that learn nothing")
    args = parser.parse_args()
    if unknown := [part for part in args.parts if part not in PARTS]:
        parser.error(f"no part {', '.join(unknown)}; known: {', '.join(PARTS)}")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    keep_heap()
    torch.set_num_threads(args.threads)
    for part in args.parts or PARTS:
        run(part, args)


def run(part: str, args: argparse.Namespace) -> None:
    match part:
        case "untouched":
            for name in args.collections or ["scifact"]:
                untouched(name, args.precision)
        case "hybrid":
            for name in args.collections or ["scifact"]:
                bm25(name)
                hybrid(name, args.precision)
        case "finetune":
            finetune(args.seeds, Lesson(max_steps=args.steps, frozen=args.frozen))
        case "dual":
            changes = {} if args.steps is None else {"max_steps": args.steps}
            dual(args.collections or list(READERS), args.seeds, args.shares, **changes)


if __name__ == "__main__":
    main()
