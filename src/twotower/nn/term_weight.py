"""How much each term of a query says (DRMM, Guo et al., CIKM 2016, section 4.3): a softmax over its terms, of
its inverse document frequencies or of what a learned direction finds in its vectors. An unknown word, which
would be the rarest of all, has no share: it is none of the tokens (`twotower.nn.token_lists`).

Letters: Q queries, L places, D vector length, N items, V terms.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from twotower.errors import ConfigError
from twotower.nn.token_lists import NO_TERM, Tokens


class TermVector(nn.Module):
    """g = softmax(w . x): the term gate by vectors."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.direction = nn.Linear(dim, 1, bias=False)

    def forward(self, tokens: Tokens) -> Tensor:
        """(Q, L) shares that sum to one over the real tokens, zeros where there is none."""
        return shares(self.direction(tokens.vectors).squeeze(-1), tokens.real)


class InverseFrequency(nn.Module):
    """g = softmax(w idf): one learned weight, and idf = log((N + 1) / (documents with the term + 1))."""

    idf: Tensor

    def __init__(self, n_terms: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.register_buffer("idf", torch.full((n_terms,), torch.nan))  # until `see` knows

    @torch.no_grad()
    def see(self, terms: Tensor) -> None:
        """Count the documents of each term: ``terms`` (N, L) of the whole catalogue, or NO_TERM."""
        terms = terms.sort(dim=-1).values
        first = terms != NO_TERM
        first[:, 1:] &= terms[:, 1:] != terms[:, :-1]
        found = torch.bincount(terms[first], minlength=len(self.idf)).to(self.idf)
        self.idf.copy_(((len(terms) + 1) / (found + 1)).log())

    def forward(self, tokens: Tokens) -> Tensor:
        """(Q, L) shares that sum to one over the real tokens, zeros where there is none.

        Raises
        ------
        ConfigError
            No catalogue was ever seen.
        """
        if self.idf[:1].isnan().any():
            raise ConfigError(
                "the term gate reads idf, but has seen no documents: call see_items with the encoded items "
                "before training, or set gate: vector"
            )
        idf = self.idf[tokens.terms.clamp(min=0)].masked_fill(tokens.terms == NO_TERM, 0.0)
        return shares(self.weight * idf, tokens.real)


def shares(weights: Tensor, real: Tensor) -> Tensor:
    """Softmax over the real places, exactly zero elsewhere; all zeros where no place is real.

    >>> shares(torch.zeros(2, 3), torch.tensor([[True, True, False], [False, False, False]]))
    tensor([[0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 0.0000]])
    """
    # the lowest finite number, since a softmax over nothing would be NaN
    return weights.masked_fill(~real, torch.finfo(weights.dtype).min).softmax(-1) * real
