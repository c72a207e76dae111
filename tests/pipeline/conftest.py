"""Two bundles of tiny runs that differ in everything, built once: look at them, but copy before changing."""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from pathlib import Path

import pytest

from twotower.pipeline.bundles.bundle import Bundle, build
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

WORDS = [f"{first}{last}" for first in ("bar", "tel", "mur", "sop", "kin") for last in "aeiou"]


@pytest.fixture(scope="session")
def collection(tmp_path_factory) -> Path:
    """A search collection as BEIR writes it: 60 documents, 72 queries of two words of their one answer."""
    folder, draw = tmp_path_factory.mktemp("collection"), random.Random(7)
    documents = [draw.choices(WORDS, k=draw.randint(3, 9)) for _ in range(60)]
    with open(folder / "corpus.jsonl", "w", encoding="utf-8") as file:
        for number, words in enumerate(documents):
            file.write(json.dumps({"_id": f"d{number}", "title": words[0], "text": " ".join(words)}) + "\n")
    (folder / "qrels").mkdir()
    judged: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
    with open(folder / "queries.jsonl", "w", encoding="utf-8") as file:
        for number in range(72):
            answer = draw.randrange(60)
            words = draw.sample(documents[answer], 2)
            file.write(json.dumps({"_id": f"q{number}", "text": f"the {words[0]} and {words[1]}"}) + "\n")
            part = ("train", "train", "train", "train", "dev", "test")[number % 6]
            judged[part].append(f"q{number}\td{answer}\t1")
    for part, lines in judged.items():
        text = "\n".join(["query-id\tcorpus-id\tscore", *lines, ""])
        (folder / "qrels" / f"{part}.tsv").write_text(text, encoding="utf-8")
    return folder


@dataclass(frozen=True)
class Packed:
    """A bundle, the root it was published below, and the run it was built from."""

    run: Path
    root: Path
    bundle: Bundle


@pytest.fixture(scope="session")
def packed(trained, tmp_path_factory) -> Packed:
    root = tmp_path_factory.mktemp("bundles") / "root"
    return Packed(trained.directory, root, build(trained.directory, root))


@pytest.fixture(scope="session")
def other(tiny, tmp_path_factory) -> Packed:
    """The same recipe on another synthetic world of another size, with another seed; never evaluated."""
    folder = tmp_path_factory.mktemp("other")
    changes = (
        "seed=1",
        "data.seed=1",
        "data.n_items=130",
        "cascade.0.k=25",
        "models.ranker.config.crosses=2",
    )
    pipeline = Pipeline(Recipe.parse(tiny(*changes)), folder / "run")
    pipeline.prepare()
    pipeline.train()
    return Packed(folder / "run", folder / "root", build(folder / "run", folder / "root"))
