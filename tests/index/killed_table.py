"""A table of items that is built slowly, to be killed: the program behind test_draft.py.

``python killed_table.py FOLDER`` builds the table into FOLDER, prints each chunk's first key, and makes every
chunk safe at once, but for the last: after it, it waits to be killed with a chunk that no journal counts.
"""

import sys
import time
from pathlib import Path

import torch

from twotower.index import draft
from twotower.index.item_table import ItemTable
from twotower.types import Rep, RepSpec

ROWS, CHUNK, WAIT_AT = 22, 4, 12
SPECS = (RepSpec("vector", (3,)), RepSpec("tokens", (2,), ragged=True), RepSpec("year", (), "int64"))


def encode(keys):
    """Items with 0 to 4 tokens; the vectors depend on the chunk, as those of a transformer's batch may."""
    length = keys % 5
    tokens = (keys[:, None, None] + torch.arange(4)[:, None] + torch.zeros(2)).sin()
    vector = keys[:, None] + keys.float().mean() + torch.arange(3)
    return Rep(vector=vector, tokens=tokens, tokens_length=length, year=keys + 1900)


def slow(keys):
    first = int(keys[0])
    if first == WAIT_AT:
        draft.SAVE_EVERY_S = 3600.0
    if first == WAIT_AT + CHUNK:
        print("waiting", flush=True)
        time.sleep(3600)
    return encode(keys)


def build(folder, encode=encode, chunk=CHUNK, digest="digest", **options):
    return ItemTable.build(
        encode, ROWS, SPECS, digest, chunk=chunk, storage="bfloat16", directory=folder, **options
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    draft.SAVE_EVERY_S = 0.0
    build(Path(sys.argv[1]), slow)
