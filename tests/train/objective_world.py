"""A dozen items, models to score them and examples to learn from, for the tests of objectives."""

import torch

from twotower.data.batches import Examples
from twotower.data.spec import Column, FeatureSpec
from twotower.models.catalogue import make_model
from twotower.types import Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="user", kind="id", side="query", size=9),
        Column(name="past", kind="sequence", side="query", size=14, width=4, of="movie"),
        Column(name="movie", kind="id", side="item", size=14),
        Column(name="year", kind="number", side="item", width=2),
    )
)
N, B, SEED = 12, 6, 7
DRAW = torch.Generator().manual_seed(0)
ITEMS = Batch(movie=torch.arange(N) + 2, year=torch.randn(N, 2, generator=DRAW))
COUNTS = torch.tensor([9, 4, 3, 0, 1, 1, 7, 2, 2, 5, 1, 3])
TRAINED = COUNTS.nonzero()[:, 0].tolist()


def two_tower(**more):
    torch.manual_seed(1)
    return make_model("two-tower", SPEC, {"embedding": 4, "layers": [6], "history": {"kind": "mean"}, **more})


def late(name):
    torch.manual_seed(1)
    own = {
        "int-tower": {"layers": [6], "heads": 2, "head_dim": 3},
        "mol": {"layers": [6], "query_vectors": 2, "item_vectors": 2, "dim": 3, "gate_dropout": 0.0},
        "fit": {"layers": [6], "heads": 2, "head_dim": 3, "metas": 2},
    }
    return make_model(name, SPEC, {"embedding": 4, "history": {"kind": "mean"}, **own[name]})


def dcn(**more):
    torch.manual_seed(1)
    model = make_model("dcn-v2", SPEC, {"embedding": 4, "layers": [8], "dropout": 0.0, **more})
    torch.nn.init.normal_(model.out.weight)  # with pair fields it starts at zero, and would hide the rest
    return model


def events(weights=False):
    past = torch.tensor([[2, 3, 0, 0], [4, 0, 0, 0], [0, 0, 0, 0], [9, 8, 7, 6], [2, 2, 0, 0], [5, 0, 0, 0]])
    return Examples(
        Batch(user=torch.arange(B) + 2, past=past),
        torch.tensor([0, 6, 0, 9, 2, 6]),  # 0 and 6 twice: accidental hits
        torch.arange(B),
        labels=torch.tensor([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]),
        weights=torch.tensor([1.0, 2.0, 0.5, 1.0, 0.0, 3.0]) if weights else None,
    )


def sequences():
    """Rows of 4, 2 and 1 events, each of which must tell the next one."""
    past = torch.tensor([[2, 8, 3, 6], [4, 2, 0, 0], [11, 0, 0, 0]])
    items = torch.tensor([[6, 1, 4, 0], [0, 9, -1, -1], [6, -1, -1, -1]])
    return Examples(Batch(user=torch.tensor([2, 3, 4]), past=past), items, torch.arange(3))


def lists():
    items = torch.tensor([[3, 1, 8], [0, 5, -1], [2, -1, -1], [-1, -1, -1]])
    labels = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    pair = Batch(retrieve_score=torch.arange(12.0).reshape(4, 3) / 7)
    query = Batch(user=torch.arange(4) + 2, past=torch.zeros(4, 4, dtype=torch.int64))
    return Examples(query, items, torch.arange(4), labels=labels, pair=pair)
