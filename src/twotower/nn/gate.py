"""Gates that weigh the fields of one side by how much they say: SENET and Light-SE.

Letters: ... any leading axes, F fields, E embedding.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

GateKind = Literal["none", "senet", "light_se"]


class SENet(nn.Module):
    """Squeeze and excitation (Hu et al., CVPR 2018, eq. 2-4): e_f sigmoid(W_2 relu(W_1 z))_f.

    z_f is the mean of field vector f; W_1 is (F / reduction, F). FiBiNET (RecSys 2019) ends in a ReLU, which
    can close a field for good; the sigmoid of the original cannot.
    """

    def __init__(self, fields: int, reduction: int = 2) -> None:
        super().__init__()
        inside = max(1, fields // reduction)
        self.weigh = nn.Sequential(
            nn.Linear(fields, inside), nn.ReLU(), nn.Linear(inside, fields), nn.Sigmoid()
        )

    def forward(self, fields: Tensor) -> Tensor:
        """(..., F, E) -> (..., F, E)."""
        out: Tensor = fields * self.weigh(fields.mean(-1)).unsqueeze(-1)
        return out


class LightSE(nn.Module):
    """Light-SE (IntTower, Li et al., CIKM 2022): a = softmax(W z) over the fields, field f times 1 + a_f.

    One layer, and a residual: no field can be lost.

    >>> import torch
    >>> gate = LightSE(2)
    >>> _ = torch.nn.init.zeros_(gate.weigh.weight), torch.nn.init.zeros_(gate.weigh.bias)
    >>> gate(torch.tensor([[2.0], [4.0]])).tolist()  # equal weights of 1/2
    [[3.0], [6.0]]
    """

    def __init__(self, fields: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(fields, fields)

    def forward(self, fields: Tensor) -> Tensor:
        """(..., F, E) -> (..., F, E)."""
        share = self.weigh(fields.mean(-1)).softmax(-1)
        out: Tensor = fields * (1 + share).unsqueeze(-1)
        return out


def gate(kind: GateKind, fields: int) -> nn.Module:
    """The gate of a name; "none" leaves the fields as they are."""
    match kind:
        case "senet":
            return SENet(fields)
        case "light_se":
            return LightSE(fields)
        case "none":
            return nn.Identity()
