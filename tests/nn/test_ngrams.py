"""N-gram vectors against a window moved by hand."""

import torch

from twotower.nn.ngrams import NGrams


@torch.no_grad()
def test_an_ngram_of_each_length_begins_at_every_token():
    torch.manual_seed(0)
    grams = NGrams(3, longest=3, filters=4)
    vectors = torch.randn(2, 5, 3)
    real = torch.arange(5) < torch.tensor([5, 2])[:, None]
    found = grams(vectors, real)
    assert found.shape == (2, 5, 3, 4)
    for n, length in enumerate((5, 2)):
        for i in range(5):
            for h, convolution in enumerate(grams.convolutions, 1):
                expected = torch.zeros(4)
                if i < length:
                    expected = convolution.bias.clone()
                    for j in range(h):
                        if i + j < length:
                            expected += convolution.weight[:, :, j] @ vectors[n, i + j]
                    expected = expected.relu()
                torch.testing.assert_close(found[n, i, h - 1], expected, atol=1e-6, rtol=1e-5)


def test_own_candidates_keep_their_axes():
    grams = NGrams(3, longest=2, filters=4)
    assert grams(torch.zeros(2, 3, 5, 3), torch.ones(2, 3, 5, dtype=torch.bool)).shape == (2, 3, 5, 2, 4)
