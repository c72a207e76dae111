"""Conv-KNRM (Dai et al., "Convolutional Neural Networks for Soft-Matching N-Grams in Ad-hoc Search", WSDM
2018).

    g_i^h = relu(W_h [x_i; ...; x_{i + h - 1}] + b_h)        n-grams of length h = 1 .. H, both sides alike
    M^{h, h'}_ij = cos(g_i^h of the query, g_j^{h'} of the item), all H x H of them
    score = tanh(w . [kernel pooling of each] + b)

The n-grams need one side alone: they are an item's list, H of them at every place. For the tanh and the scale
of the features see `twotower.models.knrm`.

Letters: q queries and k candidates of a chunk, H longest n-gram, F filters, N kernels, Lq and Ld places.
"""

from __future__ import annotations

from pydantic import Field as Option
from torch import Tensor, nn
from torch.nn import functional

from twotower.data.spec import FeatureSpec
from twotower.models.knrm import KNRMConfig
from twotower.models.matrix_ranker import MatrixRanker
from twotower.nn.cost import linear_flops
from twotower.nn.kernel_pooling import KernelPooling
from twotower.nn.ngrams import NGrams
from twotower.nn.token_lists import Tokens
from twotower.types import Rep


class ConvKNRMConfig(KNRMConfig):
    ngrams: int = Option(3, ge=1, description="longest n-gram")
    filters: int = Option(128, ge=1, description="floats of an n-gram's vector")


class ConvKNRM(MatrixRanker):
    config: ConvKNRMConfig
    item_part = (*MatrixRanker.item_part, "grams.")

    def __init__(self, spec: FeatureSpec, config: ConvKNRMConfig) -> None:
        super().__init__(spec, config)
        self.grams = NGrams(self.lists.dim, config.ngrams, config.filters)
        self.pool = KernelPooling(config.kernels, config.sigma)
        self.out = nn.Linear(config.ngrams**2 * config.kernels, 1)
        self.start_from_pair(self.out)

    def units(self, tokens: Tokens) -> Rep:
        grams = self.grams(tokens.vectors, tokens.real).float()  # (..., L, H, F)
        grams = functional.normalize(grams, dim=-1)
        return Rep(tokens=grams.flatten(-3, -2), tokens_length=tokens.length * self.config.ngrams)

    def read(self, matrix: Tensor, query_real: Tensor, item_real: Tensor) -> Tensor:
        """(q, k, H * H * N) features of a matrix of H x H blocks."""
        H = self.config.ngrams
        q, k, Lq, Ld = matrix.shape
        each = matrix.reshape(q, k, Lq // H, H, Ld // H, H).permute(0, 1, 3, 5, 2, 4)
        real = query_real[:, :, None, None, ::H], item_real[:, :, None, None, ::H]
        features: Tensor = self.pool(each, *real)  # (q, k, H, H, N)
        return features.flatten(2)

    def judge(self, features: Tensor, query: Rep) -> Tensor:
        scores: Tensor = self.out(features).squeeze(-1)
        return scores.tanh() if self.config.tanh else scores

    @property
    def unit_size(self) -> tuple[int, int]:
        return self.config.ngrams, self.config.filters

    @property
    def judge_flops(self) -> int:
        return linear_flops(self.out)

    @property
    def per_cell(self) -> int:
        return 2 * self.config.kernels
