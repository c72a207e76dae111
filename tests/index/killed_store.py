"""A store of items that is killed while it is written to: the program behind test_item_store.py.

``python killed_store.py FOLDER KILLS SEED`` keeps changing the items of one store. Each time the process that
does so is killed by SIGKILL at a random moment, another process opens the store and compares it with what was
acknowledged: it must hold exactly that, or that and the one change that was under way, whole. The last line
of output says what was found, as JSON.

This process only forks: neither torch nor polars has a thread in it that a child would miss.
"""

import itertools
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

import numpy as np
import polars as pl
import torch

from twotower.data.catalogue import Catalogue
from twotower.index.delta import DeltaIndex
from twotower.index.delta_table import DeltaTable
from twotower.index.exact import ExactIndex
from twotower.index.item_log import ItemLog
from twotower.index.item_store import ItemStore
from twotower.index.item_table import ItemTable
from twotower.types import Rep, RepSpec

BASE, IDS, DIM = 20, 60, 4
COLUMNS = {"item": pl.String, "weight": pl.Int64, "tags": pl.List(pl.String)}


def raw(number, weight):
    return {"item": f"i{number}", "weight": weight, "tags": ["t"] * (weight % 5)}


def encode(frame):
    weight = torch.tensor(frame["weight"].to_list())
    lengths = torch.tensor([len(tags) for tags in frame["tags"]])
    return Rep(vector=torch.stack([weight % 7, weight % 5, lengths, weight], 1).float())


def base_items():
    return [raw(number, number) for number in range(BASE)]


def open_store(folder):
    frame = pl.DataFrame(base_items(), schema=COLUMNS)
    vectors = encode(frame)["vector"]
    table = ItemTable.build(
        lambda keys: Rep(vector=vectors[keys]), BASE, [RepSpec("vector", (DIM,))], "bundle"
    )
    index, rows = DeltaIndex(ExactIndex.build(vectors, produced_by="bundle")), DeltaTable(table)
    log = ItemLog(folder / "items.log", "bundle")
    store = ItemStore(
        log, Catalogue(frame["item"]), COLUMNS, tables=[(encode, rows)], indexes=[(encode, index)]
    )
    return store, index, rows


def operation(seed, number):
    """The change with this number: (kind, items or ids)."""
    draw = np.random.default_rng([seed, number])
    kind = draw.choice(["upsert", "delete", "trim"], p=[0.6, 0.35, 0.05])
    chosen = draw.choice(IDS, draw.integers(1, 6), replace=False)
    if kind == "upsert":
        return kind, [raw(int(each), int(draw.integers(1000))) for each in chosen]
    return kind, [f"i{each}" for each in chosen]


def replayed(seed, count):
    """What should be there after so many changes: id -> raw item."""
    items = {item["item"]: item for item in base_items()}
    for number in range(count):
        kind, given = operation(seed, number)
        if kind == "upsert":
            items.update((item["item"], item) for item in given)
        elif kind == "delete":
            for id in given:
                items.pop(id, None)
    return items


def write(folder, seed, start, pipe):
    """Change the store until killed; a number in the pipe acknowledges the change."""
    store, _, _ = open_store(folder)
    for number in itertools.count(start):
        kind, given = operation(seed, number)
        if kind == "upsert":
            store.upsert(given)
        elif kind == "delete":
            store.delete(given)
        else:
            store.log.trim()
        os.write(pipe, f"{number + 1}\n".encode())


def verify(folder, seed, acknowledged, pipe):
    """Compare the store with both states it may be in; tells which through the pipe."""
    store, index, rows = open_store(folder)
    changed = {item["item"]: item for item in store.items().drop("key").to_dicts()}
    unchanged = {item["item"]: item for item in base_items() if item["item"] not in changed}
    there = store.keys(pl.Series([f"i{number}" for number in range(IDS)])) >= 0
    found = {f"i{number}" for number in range(IDS) if there[number]}
    state = {id: item for id, item in {**unchanged, **changed}.items() if id in found}
    assert len(state) == len(found) == len(store) == len(index)
    after = [replayed(seed, acknowledged + more) for more in (0, 1)]
    assert state in after, f"after {acknowledged} changes: {state}"
    done = acknowledged + (state != after[0])

    entries = [entry for _, entry in store.log.changes(after=0)]
    keys = [entry.key for entry in entries]
    assert len(set(keys)) == len(keys), "two items with one key"
    assert all((e.key < BASE) == (int(e.id[1:]) < BASE) for e in entries)
    known = folder / "keys.json"
    earlier = json.loads(known.read_text()) if known.exists() else {}
    now = {entry.id: entry.key for entry in entries}
    assert all(now[id] == key for id, key in earlier.items()), "an item has another key than before"
    known.write_text(json.dumps(now))

    if state:
        ids = list(state)
        vectors = encode(pl.DataFrame(list(state.values()), schema=COLUMNS))["vector"]
        own = torch.from_numpy(store.keys(pl.Series(ids)))
        query = torch.randint(-3, 4, (8, DIM), generator=torch.Generator().manual_seed(done)).float()
        wanted, got = ExactIndex.build(vectors, own).search(query, IDS), index.search(query, IDS)
        assert torch.equal(wanted.keys, got.keys)
        assert torch.equal(wanted.scores, got.scores)
        assert torch.equal(rows.take(own)["vector"], vectors)
    os.write(pipe, f"{done}\n".encode())


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
    draw = np.random.default_rng(seed)
    done, under_way, kept = 0, 0, 0
    for _ in range(kills):
        child, pipe = forked(write, folder, seed, done)
        acknowledged = done
        for line in itertools.islice(pipe, int(draw.integers(0, 20))):
            acknowledged = int(line)
        time.sleep(float(draw.uniform(0, 0.01)))
        os.kill(child, signal.SIGKILL)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
        acknowledged = max([acknowledged, *map(int, pipe)])
        pipe.close()
        child, pipe = forked(verify, folder, seed, acknowledged)
        found = pipe.read()
        assert os.waitpid(child, 0)[1] == 0, f"after {acknowledged} changes"
        pipe.close()
        under_way += int(found) - acknowledged
        kept, done = kept + acknowledged - done, int(found)
    print(json.dumps({"kills": kills, "acknowledged": kept, "kept_though_not_acknowledged": under_way}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
