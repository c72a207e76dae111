"""What a ranker begins with: the order that its pair fields give."""

import pytest
import torch

from twotower.nn.pair import PairField, PairShare


@pytest.mark.parametrize("names", [["bm25_score"], ["retrieve_rank"], ["retrieve_score", "retrieve_rank"]])
def test_the_first_share_follows_scores_upwards_and_ranks_downwards(names):
    ranks = torch.arange(8.0)
    columns = torch.stack([ranks if name.endswith("_rank") else -ranks for name in names], -1)[None]
    shares = PairShare(names)(columns), PairField(names, 4)(columns)[1]
    for share in shares:
        assert share[0].argsort(descending=True).tolist() == list(range(8))
