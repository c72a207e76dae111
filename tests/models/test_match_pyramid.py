"""MatchPyramid against each pair's own unpadded image."""

import math

import pytest
import torch
from torch.nn.functional import adaptive_max_pool2d, conv2d, pad

from twotower.data.spec import Column, FeatureSpec
from twotower.models.match_pyramid import MatchPyramid, MatchPyramidConfig
from twotower.types import UNKNOWN, Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="query", kind="text", side="query", size=12, width=4, tokenizer="words"),
        Column(name="document", kind="text", side="item", size=12, width=6, tokenizer="words"),
    )
)
QUERY = Batch(query=torch.tensor([[3, 4, 5, 0], [2, 0, 0, 0], [0, 0, 0, 0], [4, 1, 3, 1], [1, 1, 0, 0]]))
ITEM = Batch(document=torch.tensor([[3, 3, 7, 1, 0, 0], [0, 0, 0, 0, 0, 0], [8, 9, 2, 5, 4, 3]]))


def textbook(model, words, document):
    rows = model.lists.encoder.embedder.weight
    cells = model.config.channels[-1] * math.prod(model.config.grid)
    pooled = torch.zeros(cells)
    if words and document:
        image = torch.stack([torch.cosine_similarity(rows[w], rows[document]) for w in words])[None]
        for convolution in model.convolutions:
            a, b = model.config.kernel
            image = pad(image, ((b - 1) // 2, b // 2, (a - 1) // 2, a // 2))
            image = conv2d(image, convolution.weight, convolution.bias).relu()
        pooled = adaptive_max_pool2d(image, model.config.grid).flatten()
    first, _, last = model.network
    return last(first(pooled).relu())[0]


@pytest.mark.parametrize(
    "options", [{}, {"channels": (2, 3), "kernel": (2, 3)}, {"grid": (1, 2), "kernel": (1, 3)}], ids=str
)
@torch.no_grad()
def test_score_is_that_of_the_pairs_own_image(options):
    torch.manual_seed(0)
    model = MatchPyramid(SPEC, MatchPyramidConfig(text={"kind": "table", "dim": 5}, **options)).eval()
    found = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q, words in enumerate(QUERY["query"].tolist()):
        for c, document in enumerate(ITEM["document"].tolist()):
            expected = textbook(model, [w for w in words if w > UNKNOWN], [w for w in document if w])
            torch.testing.assert_close(found[q, c], expected, atol=1e-5, rtol=1e-4)
