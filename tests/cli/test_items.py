"""``twotower items``: changes count in the answers of a bundle, and a wrong file changes nothing."""

from __future__ import annotations

import json

import polars as pl
import pytest

from twotower.pipeline.bundles.live import LiveBundle


@pytest.fixture
def root(twotower, trained, tmp_path):
    assert twotower("bundle", "build", trained.directory, tmp_path / "bundles").exit_code == 0
    return tmp_path / "bundles"


def shown(twotower, root, user, *more):
    result = twotower("recommend", root, "--user", user, "--json", *more)
    assert result.exit_code == 0, result.output
    return [row["item"] for row in json.loads(result.stdout)["items"]]


def test_delete_add_and_ask(twotower, trained, root, tmp_path):
    log = tmp_path / "items.sqlite"
    user = trained.pipeline.prepared.dataset.queries["user"][0]
    before = shown(twotower, root, user)
    assert before == shown(twotower, trained.directory, user)  # a bundle answers as its run
    gone = twotower("items", "delete", root, before[0], "5", "--log", log)
    assert gone.stdout == "1 items deleted; 119 there are now\n"
    assert before[0] not in shown(twotower, root, user, "--items", log)
    assert shown(twotower, root, user) == before  # the bundle itself is as it was
    row = trained.pipeline.prepared.dataset.items.filter(item=before[0]).to_dicts()[0]
    (tmp_path / "back.jsonl").write_text(json.dumps(row) + "\n\n")
    back = twotower("items", "upsert", root, tmp_path / "back.jsonl", "--log", log, "--json")
    assert json.loads(back.stdout) == {"changed": 1, "items": 120}
    assert shown(twotower, root, user, "--items", log) == before
    pl.DataFrame([row | {"item": 7}]).write_parquet(tmp_path / "new.parquet")
    assert (
        "121 there are now"
        in twotower("items", "upsert", root, tmp_path / "new.parquet", "--log", log).stdout
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]\n", "items.jsonl:1: expected an object"),
        ('{"item": 3}\n{"item"\n', "items.jsonl:2: not JSON"),
        ('{"item": 3, "brnad": "x"}\n', "unknown feature 'brnad'; did you mean 'brand'"),
        (
            '{"item": 3, "price": 2}\n\n{"item": 4, "price": "dear"}\n',
            "items.jsonl:3 [column price]: item 4: found 'dear', expected a finite number",
        ),
        (
            '{"item": 3, "tags": "warm"}\n',
            "items.jsonl:1 [column tags]: item 3: found 'warm', expected a list of texts",
        ),
        ('{"item": "x"}\n', "items.jsonl:1 [column item]: item 'x': found 'x', expected an integer"),
        ('{"brand": "x"}\n', "items.jsonl:1 [column item]: the item lacks its id: item is None"),
        ('{"item": 3}\n{"item": " "}\n', "items.jsonl:2 [column item]: the item lacks its id: item is ' '"),
        ('{"item": true}\n', "the item lacks its id: item is True"),
        (
            '{"item": 3}\n{"item": 4}\n{"item": 3}\n',
            "items.jsonl:3 [column item]: the item 3 stands in line 1 already",
        ),
    ],
)
def test_a_wrong_item_is_named_and_changes_nothing(twotower, root, tmp_path, content, message):
    (tmp_path / "items.jsonl").write_text(content)
    result = twotower("items", "upsert", root, tmp_path / "items.jsonl", "--log", tmp_path / "log")
    assert result.exit_code in (2, 65)
    assert message in result.stderr
    after = twotower("items", "delete", root, "0", "--log", tmp_path / "log")
    assert "120 there are now" in after.stdout


@pytest.mark.parametrize("sign", ["\u2028", "\u2029", "\x85"])
def test_signs_that_end_lines_elsewhere_do_not_end_them_in_json(twotower, root, tmp_path, sign):
    content = f'{{"item": 7, "title": "a{sign}b"}}\r\n{{"item": 8}}\n'
    (tmp_path / "items.jsonl").write_bytes(b"\xef\xbb\xbf" + content.encode())
    log = tmp_path / "log"
    result = twotower("items", "upsert", root, tmp_path / "items.jsonl", "--log", log, "--json")
    assert json.loads(result.stdout) == {"changed": 2, "items": 122}
    with LiveBundle.load(root, log) as live:
        assert live.store.items()["title"].to_list() == [f"a{sign}b", None]


def test_a_row_of_parquet_is_named(twotower, root, tmp_path):
    pl.DataFrame({"item": [7, 8, 7]}).write_parquet(tmp_path / "new.parquet")
    result = twotower("items", "upsert", root, tmp_path / "new.parquet", "--log", tmp_path / "log")
    assert result.exit_code == 65
    assert "new.parquet:3 [column item]: the item 7 stands in row 1 already" in result.stderr


def test_an_id_of_the_wrong_type_is_not_deleted(twotower, root, tmp_path):
    result = twotower("items", "delete", root, "x", "--log", tmp_path / "log")
    assert result.exit_code == 2
    assert "found the id 'x', expected an integer" in result.stderr


def test_changes_are_listed_carried_to_the_next_bundle_and_trimmed(twotower, trained, root, tmp_path):
    old, new = tmp_path / "old.sqlite", tmp_path / "new.sqlite"
    rows = trained.pipeline.prepared.dataset.items.to_dicts()[:3]
    file = tmp_path / "items.jsonl"
    for price in (1.5, 2.5):
        lines = [json.dumps(rows[0] | {"item": 7, "price": price}), json.dumps(rows[1] | {"price": price})]
        file.write_text("\n".join(lines))
        assert twotower("items", "upsert", root, file, "--log", old).exit_code == 0
    twotower("items", "delete", root, rows[2]["item"], "--log", old)
    listed = twotower("items", "list", old)
    assert [line.split("  ")[:2] for line in listed.stdout.splitlines()[:-1]] == [
        ["3", "7"],
        ["4", str(rows[1]["item"])],
        ["5", str(rows[2]["item"])],
    ]
    assert listed.stdout.splitlines()[-1] == "2 items added or changed, 1 deleted"
    plain = json.loads(twotower("items", "list", old, "--after", 2, "--json").stdout)
    assert [each["number"] for each in plain] == [3, 4, 5]
    assert [each["features"] is None for each in plain] == [False, False, True]
    assert plain[0]["features"]["price"] == 2.5
    # the next bundle refuses the log as its own, and takes its changes into a new one
    assert twotower("bundle", "build", trained.directory, root, "--no-people").exit_code == 0
    assert "goes on from" in twotower("items", "delete", root, "5", "--log", old).stderr
    carried = twotower("items", "carry", root, "--log", new, "--from", old)
    assert carried.stdout == "2 items added or changed, 1 deleted; 120 there are now\n"
    again = json.loads(twotower("items", "list", new, "--json").stdout)
    assert [{**each, "number": 0} for each in again] == [{**each, "number": 0} for each in plain]
    answer = twotower("recommend", root, "--features", "{}", "--k", 500, "--items", new, "--json")
    ids = [row["item"] for row in json.loads(answer.stdout)["items"]]
    assert 7 in ids
    assert rows[2]["item"] not in ids
    twotower("items", "upsert", root, file, "--log", new)
    back = twotower("items", "carry", root, "--log", new, "--from", old)  # undoes nothing that came since
    assert back.stdout == "0 items added or changed, 0 deleted; 120 there are now\n"
    assert [each["number"] for each in json.loads(twotower("items", "list", new, "--json").stdout)] == [
        3,
        4,
        5,
    ]
    assert twotower("items", "trim", root, "--log", new).stdout == "2 replaced changes removed\n"
    assert "no such log" in twotower("items", "carry", root, "--log", new, "--from", tmp_path / "typo").stderr
