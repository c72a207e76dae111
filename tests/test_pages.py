"""The pages say what is so: the runner finds what fails, and tables in the pages are those of the code."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RUNNER = ROOT / "tests" / "run_code_blocks.py"


def run(folder: Path, page: str) -> subprocess.CompletedProcess[str]:
    (folder / "page.md").write_text(page, encoding="utf-8")
    command = [sys.executable, RUNNER, "page.md"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_blocks_of_a_page_share_names_and_files(tmp_path):
    page = """
<!-- file: word.txt -->
```text
ten
```
```python
word = open("word.txt").read().strip()
```
```python
>>> word
'ten'
```
```bash
# run
cat word.txt; echo 11 ms
```
<!-- output, numbers vary -->
```text
ten 9 ms
```
```bash
exit 1  # not marked: there to be read
```
<!-- not run: needs a cluster -->
```python
raise SystemExit
```
"""
    done = run(tmp_path, page)
    assert done.returncode == 0, done.stderr
    assert "needs a cluster" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["page.md"], "blocks write elsewhere"


@pytest.mark.parametrize(
    ("page", "place"),
    [
        ("```python\nx = 1\nx / 0\n```", "page.md:3"),
        ("words\n\n```python\nx = (\n```", "page.md:4"),
        ("```python\n>>> 1 + 1\n3\n```", "page.md:2"),
        ("```bash\n# run\nfalse | true\n```", "page.md:2"),
        ("```python\nprint(1)\n```\n<!-- output -->\n```text\n2\n```", "page.md:6"),
        ("```python\nprint('a 1')\n```\n<!-- output, numbers vary -->\n```text\nb 1\n```", "page.md:6"),
        ("<!-- output -->\n```text\n2\n```", "page.md:3"),
        ("```python\nraise SystemExit(0)\n```", "page.md:2"),
        ("```python\n1", "page.md:2"),
    ],
    ids=["error", "syntax", "session", "shell", "output", "words", "no output", "exit", "open fence"],
)
def test_what_fails_is_named_by_file_and_line(page, place, tmp_path):
    done = run(tmp_path, page)
    assert done.returncode == 1
    assert place in done.stderr


def test_the_table_of_recipe_keys_is_up_to_date():
    script = [sys.executable, ROOT / "docs" / "make_recipe_reference.py", "--check"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_architecture_shows_the_floors_that_are_tested():
    spec = importlib.util.spec_from_file_location("floors", ROOT / "tests" / "test_floors.py")
    assert spec is not None
    assert spec.loader is not None
    floors = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(floors)
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    shown = {
        int(height): set(re.findall(r"`(\w+)`", rooms))
        for height, rooms in re.findall(r"^\| (\d) \| (.*?) \|", page, re.MULTILINE)
    }
    assert shown == dict(enumerate(floors.FLOORS))


def test_the_map_of_the_readme_names_every_folder():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = {path.parent.name for path in (ROOT / "src" / "twotower").glob("*/__init__.py")}
    assert rooms == set(re.findall(r"`src/twotower/(\w+)/`", readme))


def test_links_between_pages_lead_somewhere():
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/*.md")]
    for page in pages:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]*)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_anchors_between_pages_exist():
    def anchors(page: Path) -> set[str]:
        heads = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", head).strip().lower().replace(" ", "-") for head in heads}

    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]:
        links = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)]*)\)", page.read_text(encoding="utf-8"))
        for target, anchor in links:
            there = page.parent / target if target else page
            assert anchor in anchors(there), f"{page.name} links to {target}#{anchor}"


def test_every_contract_names_a_test_that_is_there():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    for name in re.findall(r"`(tests/[\w/*]+\.py)`", page):
        assert list(ROOT.glob(name)), name
