import torch

from twotower.nn.similarity_scorer import SimilarityScorer


def naive(scorer, matrix):
    scale = scorer.log_scale.exp().item()
    rows = [
        [
            max(0.0, sum(w * scale * s for w, s in zip(weights, row, strict=True)) + offset)
            for weights, offset in zip(scorer.rows.weight.tolist(), scorer.rows.bias.tolist(), strict=True)
        ]
        for row in matrix
    ]
    columns = [
        [
            max(0.0, sum(w * row[j] for w, row in zip(weights, rows, strict=True)) + offset)
            for weights, offset in zip(
                scorer.columns.weight.tolist(), scorer.columns.bias.tolist(), strict=True
            )
        ]
        for j in range(len(rows[0]))
    ]
    flat = [value for column in columns for value in column]
    return sum(w * x for w, x in zip(scorer.out.weight[0].tolist(), flat, strict=True)) + float(
        scorer.out.bias.detach()
    )


@torch.no_grad()
def test_equals_the_naive_loops():
    torch.manual_seed(0)
    scorer = SimilarityScorer(3, 2, hidden=4, scale=2.0)
    matrices = torch.randn(5, 6, 3, 2)
    scores = scorer(matrices)
    assert scores.shape == (5, 6)
    for q in range(5):
        for k in range(6):
            assert abs(scores[q, k].item() - naive(scorer, matrices[q, k].tolist())) < 1e-5


def test_flops_are_those_of_its_three_layers():
    assert SimilarityScorer(3, 2, hidden=4, scale=1.0).flops == 2 * (3 * 2 * 4 + 4 * 3 * 4 + 16)
