"""Run the benchmarks one after another, or those that are named: ``python -m benchmarks [name ...]``.

``python -m benchmarks --list`` says what each one asks. One that fails does not stop the others; the exit
code then is 1.
"""

from __future__ import annotations

import argparse
import ast
import subprocess
import sys
import time
from pathlib import Path

SUPPORT = {"machine", "tastes", "training_forms", "make_large"}
"""Modules that answer no question of their own."""
LONG = {"pre_ranking"}
"""Takes days: runs when it is named, or by its own target of make."""


def questions() -> dict[str, str]:
    """Name of each benchmark -> the first line of its docstring, without importing anything."""
    here = Path(__file__).parent
    files = {file.stem: file for file in here.glob("[!_]*.py")}
    files |= {main.parent.name: main.with_name("__init__.py") for main in here.glob("*/__main__.py")}
    texts = {name: files[name].read_text(encoding="utf-8") for name in sorted(files) if name not in SUPPORT}
    return {
        name: (ast.get_docstring(ast.parse(text)) or name).partition("\n")[0] for name, text in texts.items()
    }


def main() -> None:
    known = questions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="name", help=f"default all but {', '.join(LONG)}: {', '.join(known)}"
    )
    parser.add_argument("--list", action="store_true")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {', '.join(unknown)}; known: {', '.join(known)}")
    if args.list:
        print("\n".join(f"{name:24}{question}" for name, question in known.items()))
        return
    failed = []
    for name in args.names or [name for name in known if name not in LONG]:
        print(f"== {name}: {known[name]}", file=sys.stderr, flush=True)
        start = time.perf_counter()
        done = subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False)
        print(f"== {name}: code {done.returncode}, {time.perf_counter() - start:.0f} s", file=sys.stderr)
        if done.returncode:
            failed.append(name)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
