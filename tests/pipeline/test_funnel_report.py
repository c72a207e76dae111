"""The funnel report of a run, and what a real browser makes of it."""

import copy
import html
import re
import shutil
import subprocess
from pathlib import Path

import polars as pl
import pytest

from twotower.config import dump_yaml
from twotower.errors import ConfigError, StorageError
from twotower.pipeline.funnel_report import funnel_facts, write_funnel_report
from twotower.pipeline.pipeline import Pipeline
from twotower.pipeline.recipe import Recipe

SECTIONS = 10
POPULAR = {"name": "popular", "baseline": "popularity", "k": 20}


@pytest.fixture(scope="module")
def facts(trained):
    return funnel_facts(Pipeline.open(trained.directory), requests=3)


@pytest.fixture(scope="module")
def page(trained, tmp_path_factory):
    said = []
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    assert write_funnel_report(trained.directory, path, say=said.append) == path
    assert [line.split()[0] for line in said] == ["evaluating", "looking", "timing", "slicing"]
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path


def test_it_shows_the_numbers_of_the_run(trained, facts):
    report = trained.report
    assert facts.places.fate.losses() == report.experiment.fate.losses()
    for mine, theirs in zip(facts.experiment.stages, report.experiment.stages, strict=True):
        assert (mine.name, mine.k) == (theirs.name, theirs.k)
        assert mine.output.keys.equal(theirs.output.keys)
    assert facts.timing.asked == 3  # without those to warm up
    assert sum(s.relevant for s in facts.slices if s.group.family == "items by training") == len(
        facts.experiment.task.relevant.values
    )


def test_single_requests_tell_the_way_of_every_item(trained, facts):
    dataset = trained.pipeline.prepared.dataset
    task, fate = facts.experiment.task, facts.places.fate
    assert len(facts.requests) == 3
    for shown in facts.requests:
        user = int(shown.who.removeprefix("user "))
        row = task.query_keys.tolist().index(int(dataset.query_catalogue.keys(pl.Series([user]))[0]))
        wanted = set(dataset.item_catalogue.ids(task.relevant[row].numpy()).cast(pl.String))
        outputs = [
            dataset.item_catalogue.ids(s.output.keys[row].numpy()).cast(pl.String).to_list()
            for s in facts.experiment.stages
        ]
        assert [item.id for item in shown.delivered] == outputs[-1][:10]
        assert {item.id for item in shown.delivered if item.relevant} == wanted & set(outputs[-1][:10])
        assert {item.id for item in shown.missed} == wanted - set(outputs[-1])
        assert (shown.relevant, shown.found) == (len(wanted), len(wanted & set(outputs[-1])))
        for item in (*shown.delivered, *shown.missed):
            for place, ids in zip(item.places, outputs, strict=True):
                if item.id in ids:
                    assert place.rank == ids.index(item.id) + 1
                elif place is not None:
                    assert place.score is None
        for item in shown.missed:
            first = next(i for i, ids in enumerate(outputs) if item.id not in ids)
            assert item.dropped_by == fate.stages[first]
        texts = dataset.items.filter(pl.col("item").cast(pl.String) == shown.delivered[0].id)["title"]
        assert shown.delivered[0].text == texts[0]
        who = dataset.queries.filter(pl.col("user") == user).drop("user").row(0, named=True)
        assert dict(shown.about) == {name: value for name, value in who.items() if value is not None}


def test_the_page_is_small_and_whole(page):
    text = page.read_text(encoding="utf-8")
    assert len(text) < 200_000
    assert text.count("<section ") == SECTIONS
    assert text.count("<details") == 9  # eight requests, and the table of slices
    assert "No model of this recipe learns labels one by one" in text


def test_the_valid_part_is_told_to_flatter(trained):
    facts = funnel_facts(Pipeline.open(trained.directory), part="valid", requests=0)
    assert facts.part == "valid"
    assert facts.requests == []
    assert any("flatters" in note for note in facts.notes)
    assert len(facts.experiment.task) == len(trained.pipeline.prepared.task("valid"))


def test_documents_are_known_by_what_no_model_reads(collection, tmp_path):
    """Not by the texts themselves, and a text that is read twice has one column."""
    recipe = {
        "name": "words",
        "data": {"reader": "beir"},
        "fields": {
            "query_text": {"tokenizer": "words"},
            "text": {"tokenizer": "words"},
            "letters": {"of": "text", "tokenizer": "letters", "hash_buckets": 50},
        },
        "split": {"kind": "predefined"},
        "history": None,
        "cascade": [{"stage": "retrieve", "k": 20, "sources": [POPULAR]}],
        "evaluate": {"requests_timed": 2, "samples": 100},
        "threads": 1,
    }
    pipeline = Pipeline(Recipe.parse(recipe), tmp_path, data=collection)
    pipeline.prepare()
    pipeline.train()
    [shown] = funnel_facts(pipeline, requests=1).requests
    items = pipeline.prepared.dataset.items
    titles = dict(zip(items["doc"], items["title"], strict=True))
    assert len(shown.delivered) == 10
    assert [item.text for item in shown.delivered] == [titles[item.id] for item in shown.delivered]


def test_models_that_learn_labels_are_calibrated(tiny, tmp_path):
    plain = copy.deepcopy(tiny())
    plain["models"]["prerank"] = {
        "model": "logistic-regression",
        "features": ["country", "item", "category"],
        "config": {"buckets": 64},
        "objective": {"kind": "pointwise"},
        "train": {"epochs": 1, "batch_size": 64},
    }
    plain["cascade"][1:] = [{"stage": "prerank", "model": "prerank", "k": 10}]
    del plain["models"]["ranker"]
    pipeline = Pipeline(Recipe.parse(plain), tmp_path)
    pipeline.prepare()
    pipeline.train()
    facts = funnel_facts(pipeline, requests=1)
    [calibration] = facts.calibrations
    assert calibration.model == "prerank"
    assert calibration.rows == len(pipeline.prepared.split.test)
    assert sum(b.rows for b in calibration.bins) == calibration.rows


def test_a_budget_limits_the_timed_requests_and_not_the_judged_ones(trained, facts, tmp_path):
    run = shutil.copytree(trained.directory, tmp_path / "run")
    recipe = Recipe.load(run / "recipe.yaml").plain()
    recipe["budget_ms"], recipe["cascade"][1]["budget_ms"] = 5000, 1e-6
    (run / "recipe.yaml").write_text(dump_yaml(recipe), encoding="utf-8")
    tight = funnel_facts(Pipeline.open(run), requests=1)
    assert tight.timing.budget == "The budget: rank 1e-06 ms, the whole request 5000 ms."
    assert tight.timing.degraded == {"rank": tight.timing.asked}
    assert "were not enough" in tight.requests[0].steps[1].degraded
    assert tight.places.ranks.equal(facts.places.ranks)


def test_every_kind_of_stage_can_be_reported(whole_run, tmp_path):
    path = write_funnel_report(whole_run.space.directory, tmp_path / "whole.html", requests=4)
    facts = funnel_facts(Pipeline.open(whole_run.space.directory), requests=0)
    assert facts.places.stages == whole_run.recipe.stage_names
    assert facts.places.fate.losses() == facts.experiment.fate.losses()
    text = path.read_text(encoding="utf-8")
    assert text.count("<section ") == SECTIONS
    assert all(f"{name}: " in text for name in facts.places.stages)


def test_what_cannot_be_reported_is_said(tiny, trained, tmp_path):
    with pytest.raises(StorageError, match="no run here"):
        write_funnel_report(tmp_path / "none", tmp_path / "report.html")
    with pytest.raises(ConfigError, match="0 or more"):
        funnel_facts(trained.pipeline, requests=-1)
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="could not be"):
        write_funnel_report(trained.directory, tmp_path / "file" / "report.html")
    alone = tiny()
    alone["cascade"], alone["baselines"] = [], []
    del alone["models"]["ranker"]
    pipeline = Pipeline(Recipe.parse(alone), tmp_path / "alone")
    with pytest.raises(ConfigError, match="no cascade"):
        funnel_facts(pipeline)


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PROBE = """<script>
document.querySelectorAll("details").forEach(d => d.querySelector("summary").click());
const seen = [...document.querySelectorAll("section, svg, details, table")]
  .map(element => element.getBoundingClientRect());
document.title = JSON.stringify({
  sections: document.querySelectorAll("section").length,
  closed: document.querySelectorAll("details:not([open])").length,
  flat: seen.filter(box => box.width < 20 || box.height < 20).length,
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  paper: getComputedStyle(document.body).backgroundColor,
});
</script></body>"""


def opened(path: Path, home: Path, *options: str) -> tuple[str, str]:
    """The document and the log of a browser that has opened the page."""
    done = subprocess.run(
        [
            str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
            "--no-first-run", f"--user-data-dir={home}", "--window-size=1000,1400",
            "--virtual-time-budget=3000", "--enable-logging=stderr", *options, path.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.skipif(BROWSER is None, reason="no chromium and no chrome on this machine")
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_a_browser_opens_it_without_complaint(page, tmp_path, theme):
    dark = [f"--blink-settings=preferredColorScheme={0 if theme == 'dark' else 1}"]
    picture = tmp_path / f"{theme}.png"
    _, log = opened(page, tmp_path / "home", f"--screenshot={picture}", *dark)
    assert "CONSOLE" not in log, log
    assert picture.stat().st_size > 10_000
    text = page.read_text(encoding="utf-8").replace("<details open", "<details")
    probe = tmp_path / "probe.html"  # the page itself allows no script: its copy does
    probe.write_text(re.sub(r"<meta http-equiv[^>]*>", "", text).replace("</body>", PROBE), encoding="utf-8")
    document, log = opened(probe, tmp_path / "home", "--dump-dom", *dark)
    assert "CONSOLE" not in log, log
    told = html.unescape(re.search(r"<title>(.*?)</title>", document)[1])
    paper = "rgb(18, 23, 30)" if theme == "dark" else "rgb(255, 255, 255)"
    assert told == (f'{{"sections":{SECTIONS},"closed":0,"flat":0,"wide":0,"paper":"{paper}"}}')
