"""KNRM (Xiong et al., "End-to-End Neural Ad-hoc Ranking with Kernel Pooling", SIGIR 2017).

    M_ij = cos(q_i, d_j)                                     token vectors, learned end to end
    phi_k = sum_i log sum_j exp(-(M_ij - mu_k)^2 / (2 sigma_k^2))
    score = tanh(w . phi + b)

Differs from the paper: the logarithms are multiplied by .01 (as in the published code); the tanh is off by
default, since it leaves the order alone and only bounds what a loss may ask for (``tanh: true`` is the
paper's, whose hinge has a margin of 1).

Letters: Q queries, K candidates, N kernels.
"""

from __future__ import annotations

from pydantic import Field as Option
from torch import Tensor, nn

from twotower.data.spec import FeatureSpec
from twotower.models.matrix_ranker import MatrixConfig, MatrixRanker
from twotower.nn.cost import linear_flops
from twotower.nn.kernel_pooling import KernelPooling
from twotower.types import Rep


class KNRMConfig(MatrixConfig):
    kernels: int = Option(11, ge=2, description="of which one counts exact matches")
    sigma: float = Option(0.1, gt=0, description="width of the others")
    tanh: bool = Option(False, description="the paper's bound on scores")


class KNRM(MatrixRanker):
    config: KNRMConfig

    def __init__(self, spec: FeatureSpec, config: KNRMConfig) -> None:
        super().__init__(spec, config)
        self.pool = KernelPooling(config.kernels, config.sigma)
        self.out = nn.Linear(config.kernels, 1)
        self.start_from_pair(self.out)

    def read(self, matrix: Tensor, query_real: Tensor, item_real: Tensor) -> Tensor:
        """(q, k, N) features."""
        features: Tensor = self.pool(matrix, query_real, item_real)
        return features

    def judge(self, features: Tensor, query: Rep) -> Tensor:
        scores: Tensor = self.out(features).squeeze(-1)
        return scores.tanh() if self.config.tanh else scores

    @property
    def judge_flops(self) -> int:
        return linear_flops(self.out)

    @property
    def per_cell(self) -> int:
        return 2 * self.config.kernels
