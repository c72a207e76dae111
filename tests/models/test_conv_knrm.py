"""Conv-KNRM against the paper's forward pass: windows, cross-matches and kernels by loops."""

import math

import torch

from twotower.data.spec import Column, FeatureSpec
from twotower.models.conv_knrm import ConvKNRM, ConvKNRMConfig
from twotower.types import UNKNOWN, Batch

SPEC = FeatureSpec(
    columns=(
        Column(name="query", kind="text", side="query", size=12, width=4, tokenizer="words"),
        Column(name="document", kind="text", side="item", size=12, width=6, tokenizer="words"),
    )
)
QUERY = Batch(query=torch.tensor([[3, 4, 5, 0], [2, 0, 0, 0], [0, 0, 0, 0], [4, 1, 3, 1], [1, 1, 0, 0]]))
ITEM = Batch(document=torch.tensor([[3, 3, 7, 1, 0, 0], [0, 0, 0, 0, 0, 0], [8, 9, 2, 5, 4, 3]]))

PAPER_MEANS = [1.0, 0.9, 0.7, 0.5, 0.3, 0.1, -0.1, -0.3, -0.5, -0.7, -0.9]
PAPER_SIGMAS = [1e-3, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1]


def windows(model, words, h):
    """The paper's n-grams of length h: one beginning at each word, zeros behind the last one."""
    rows, convolution = model.lists.encoder.embedder.weight, model.grams.convolutions[h - 1]
    padded = [*(rows[w] for w in words), *[torch.zeros(model.lists.dim)] * h]
    # filters (F, D, h) against h vectors
    return [
        (sum(convolution.weight[:, :, j] @ padded[i + j] for j in range(h)) + convolution.bias).relu()
        for i in range(len(words))
    ]


def cosine(a, b):
    return float(a @ b / max(float(a.norm() * b.norm()), 1e-20))


def textbook(model, words, document):
    features = []
    for h in range(1, model.config.ngrams + 1):
        for other in range(1, model.config.ngrams + 1):
            mine, theirs = windows(model, words, h), windows(model, document, other)
            for mu, sigma in zip(PAPER_MEANS, PAPER_SIGMAS, strict=True):
                total = 0.0
                for a in mine:
                    count = sum(math.exp(-((cosine(a, b) - mu) ** 2) / (2 * sigma**2)) for b in theirs)
                    total += math.log(max(count, 1e-10))
                features.append(0.01 * total)
    return model.out.weight[0] @ torch.tensor(features) + model.out.bias[0]


@torch.no_grad()
def test_score_is_the_papers_forward_pass():
    torch.manual_seed(0)
    model = ConvKNRM(SPEC, ConvKNRMConfig(text={"kind": "table", "dim": 5}, filters=4)).eval()
    model.lists.encoder.embedder.weight.normal_()
    model.out.weight.normal_()
    found = model.score(model.encode_query(QUERY), model.encode_item(ITEM))
    for q, words in enumerate(QUERY["query"].tolist()):
        for c, document in enumerate(ITEM["document"].tolist()):
            expected = textbook(model, [w for w in words if w > UNKNOWN], [w for w in document if w])
            torch.testing.assert_close(found[q, c], expected, atol=1e-4, rtol=1e-3)


def test_an_item_keeps_an_ngram_of_each_length_at_every_place():
    model = ConvKNRM(SPEC, ConvKNRMConfig(ngrams=2, filters=3)).eval()
    rep = model.encode_item(ITEM)
    assert rep["tokens"].shape == (3, 6 * 2, 3)
    assert rep["tokens_length"].tolist() == [8, 0, 12]
    assert model.bytes_per_item == 6 * 2 * 3 * 4 + 8
