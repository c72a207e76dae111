"""See `benchmarks.whole_catalogue`."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import polars as pl
import torch

from benchmarks.machine import RESULTS, machine, write_result
from benchmarks.whole_catalogue import __doc__ as about
from benchmarks.whole_catalogue.judge import judged, off_distribution
from benchmarks.whole_catalogue.settings import RECIPES, SETTINGS, Setting
from benchmarks.whole_catalogue.stages import Stages
from benchmarks.whole_catalogue.table import table
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

CELLS = RESULTS / "whole_catalogue"
OTHER = "taught by retrieved items alone"


def run_cell(name: str, setting: Setting, seed: int, data: Path, runs: Path, earlier: Path | None) -> None:
    """Train, plan, judge; a cell that is there, with as many queries, is not made again."""
    path = CELLS / f"{name}-{seed}.json"
    cell = json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    start = time.process_time()
    if cell is not None and cell["queries"] < cell["of_queries"] and cell["queries"] < setting.judged_by:
        cell = None
    wanted = setting.drawn is not None  # lists of retrieved items alone are the other way to teach
    if cell is not None and (OTHER in cell or not wanted):
        return
    recipe = Recipe.load(RECIPES / f"{name}.yaml").model_copy(update={"seed": seed})
    folder = None if setting.folder is None else data / setting.folder
    directory = runs / f"{name}-{seed}"
    stages = Stages(setting, Pipeline(recipe, directory, data=folder), earlier, _say)
    if cell is None:
        found, values = judged(stages, setting, directory / "lists")
        CELLS.mkdir(parents=True, exist_ok=True)
        columns = {system: value.float().numpy() for system, value in values.items()}
        pl.DataFrame(columns).write_parquet(path.with_suffix(".parquet"), compression_level=19)
        spent = round(time.process_time() - start, 1)
        cell = {"setting": name, "seed": seed, **found, "cpu_seconds": spent, "machine": machine()}
        write_result(f"whole_catalogue/{name}-{seed}", cell)
    if wanted:
        write_result(
            f"whole_catalogue/{name}-{seed}", cell | {OTHER: off_distribution(stages, directory / "lists")}
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="setting", help=", ".join(SETTINGS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[1])
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("TWOTOWER_DATA", ".")))
    parser.add_argument("--runs", type=Path, default=Path("runs") / "whole_catalogue")
    parser.add_argument("--retriever", help="directory of a trained retriever, {seed} in it, taken as it is")
    parser.add_argument("--queries", type=int, help="test queries at most; more can be asked for later")
    parser.add_argument("--table", action="store_true", help="what there is, as Markdown; measures nothing")
    options = parser.parse_args()
    unknown = [name for name in options.settings if name not in SETTINGS]
    if unknown:
        parser.error(f"no setting {', '.join(unknown)}; known: {', '.join(SETTINGS)}")
    torch.set_num_threads(1)
    for name in options.settings or SETTINGS:
        if not options.table:
            for seed in options.seeds:
                earlier = None if options.retriever is None else Path(options.retriever.format(seed=seed))
                setting = SETTINGS[name]
                if options.queries is not None:
                    setting = replace(setting, judged_by=options.queries)
                run_cell(name, setting, seed, options.data, options.runs, earlier)
        print(table(CELLS, name), end="\n\n")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
