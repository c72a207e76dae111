"""Run the code of Markdown files, so that no page can promise what the library does not do.

    python tests/run_code_blocks.py README.md docs

Every file is a world of its own: its blocks run from top to bottom in one temporary directory, and its Python
blocks share one namespace. What happens to a fenced block depends on its language and on the line above it:

- ``python``: run; a block that begins with ``>>>`` is a doctest session.
- ``bash``: run when its first line is ``# run``, otherwise it is there to be read.
- ``text`` below ``<!-- output -->``: what the block before it must have printed (doctest's ``...`` and free
  spaces). Below ``<!-- output, numbers vary -->`` only the words must agree, and ``<!-- output begins -->``
  asks for the first lines alone (``<!-- output begins, numbers vary -->`` for their words).
- any language below ``<!-- file: NAME -->``: written to that file of the directory.
- any language below ``<!-- not run: REASON -->``: left alone, and the reason is printed.

Prints what ran; exits with 1 after a message ``file:line`` for every block that failed.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
NUMBER = re.compile(r"[-+]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """One fenced block: the line where its code begins, and what the comment above it says."""

    file: Path
    line: int
    language: str
    code: str
    note: str

    @property
    def place(self) -> str:
        return f"{self.file}:{self.line}"


class Failed(Exception):
    """A block did not do what the page says."""


def blocks_of(file: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    note, fence, language, start, code = "", "", "", 0, list[str]()
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        opening = re.match(r"(`{3,})(\w*)\s*$", line)
        if fence:
            if line.rstrip() == fence:
                yield Block(file, start, language, "\n".join(code) + "\n", note)
                fence, note = "", ""
            else:
                code.append(line)
        elif opening:
            fence, language = opening.groups()
            start, code = number + 1, []
        elif line.strip():
            comment = re.fullmatch(r"<!--\s*(.*?)\s*-->", line.strip())
            note = comment.group(1) if comment else ""
    if fence:
        raise Failed(f"{file}:{start}: the fence is never closed")


class Page:
    """The world in which the blocks of one file run."""

    def __init__(self) -> None:
        self.names: dict[str, Any] = {"__name__": "__main__"}
        self.printed: str | None = None  # by the last block that ran

    def run(self, block: Block) -> str | None:
        """What was done with the block in a word or two; None for one that is there to be read."""
        if block.note.startswith("not run"):
            return block.note
        if block.note.startswith("file:"):
            Path(block.note.removeprefix("file:").strip()).write_text(block.code, encoding="utf-8")
            return f"wrote {block.note.removeprefix('file:').strip()}"
        if block.note.startswith("output"):
            self.compare(block)
            return "output agrees"
        if block.language == "python":
            (self.session if block.code.startswith(">>>") else self.program)(block)
            return "ran"
        if block.language == "bash" and block.code.startswith("# run\n"):
            self.shell(block)
            return "ran"
        return None

    def program(self, block: Block) -> None:
        # empty lines in front make the traceback name the line of the page
        code, out = "\n" * (block.line - 1) + block.code, io.StringIO()
        try:
            with contextlib.redirect_stdout(out):
                exec(compile(code, str(block.file), "exec"), self.names)
        except BaseException as error:
            raise Failed(f"{_place_of(error, block)}: {traceback.format_exc(limit=-3)}") from error
        self.printed = out.getvalue()

    def session(self, block: Block) -> None:
        test = doctest.DocTestParser().get_doctest(
            block.code, self.names, block.file.name, str(block.file), block.line - 1
        )
        out = io.StringIO()
        runner = doctest.DocTestRunner(optionflags=FLAGS, verbose=False)
        if runner.run(test, out=out.write, clear_globs=False).failed:
            raise Failed(f"{block.place}: {out.getvalue()}")
        self.names.update(test.globs)  # a doctest works on a copy
        self.printed = None

    def shell(self, block: Block) -> None:
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", block.code],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "PATH": tools, "COLUMNS": "120"},
        )
        if done.returncode:
            raise Failed(f"{block.place}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
        self.printed = done.stdout

    def compare(self, block: Block) -> None:
        if self.printed is None:
            raise Failed(f"{block.place}: no block above has printed anything")
        wanted, found = block.code, self.printed
        if block.note.startswith("output begins"):
            found = "".join(found.splitlines(keepends=True)[: len(wanted.splitlines())])
        if "numbers vary" in block.note:
            wanted, found = (NUMBER.sub("0", re.sub(r"-{3,}", "---", text)) for text in (wanted, found))
        if not doctest.OutputChecker().check_output(wanted, found, FLAGS):
            raise Failed(f"{block.place}: the page says\n{block.code}\nbut this was printed\n{self.printed}")


def _place_of(error: BaseException, block: Block) -> str:
    if isinstance(error, SyntaxError) and error.filename == str(block.file):
        return f"{block.file}:{error.lineno}"
    lines = [
        n
        for frame, n in traceback.walk_tb(error.__traceback__)
        if frame.f_code.co_filename == str(block.file)
    ]
    return f"{block.file}:{lines[-1] if lines else block.line}"


def run_file(file: Path) -> list[str]:
    """Run one page in a fresh directory; the messages of the blocks that failed."""
    failures: list[str] = []
    here, path = Path.cwd(), sys.path[:]
    with tempfile.TemporaryDirectory() as scratch:
        try:
            blocks = list(blocks_of(file))
            os.chdir(scratch)
            sys.path.insert(0, scratch)
            page = Page()
            for block in blocks:
                start = time.perf_counter()
                try:
                    done = page.run(block)
                except Failed as failure:
                    done = "FAILED"
                    failures.append(str(failure))
                if done is not None:
                    print(
                        f"{block.place}: {block.language}: {done} ({time.perf_counter() - start:.1f} s)",
                        flush=True,
                    )
        except Failed as failure:
            failures.append(str(failure))
        finally:
            os.chdir(here)
            sys.path[:] = path
    return failures


def main(arguments: list[str]) -> int:
    if not arguments:
        print(__doc__)
        return 2
    named = [Path(argument) for argument in arguments]
    files = [page for path in named for page in (sorted(path.rglob("*.md")) if path.is_dir() else [path])]
    failures = [failure for file in files for failure in run_file(file)]
    for failure in failures:
        print(f"\n{failure}", file=sys.stderr)
    print(f"{len(files)} pages, {len(failures)} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
