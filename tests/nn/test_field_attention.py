"""Attention across fields against the paper: one head and one pair of fields at a time."""

import math

import torch

from twotower.nn.field_attention import FieldAttention

F, E, HEADS, D = 4, 3, 2, 5


def naive(layer, fields):
    queries, keys, values, residuals = layer.projections.weight.chunk(4)
    out = []
    for m in range(len(fields)):
        heads = []
        for h in range(layer.heads):
            rows = slice(h * layer.dim, (h + 1) * layer.dim)
            similar = [math.exp(float((queries[rows] @ fields[m]) @ (keys[rows] @ e))) for e in fields]
            heads.append(
                sum(s / sum(similar) * (values[rows] @ e) for s, e in zip(similar, fields, strict=True))
            )
        out.append((torch.cat(heads) + residuals @ fields[m]).clamp(min=0))
    return torch.stack(out)


def test_a_layer_is_the_papers_whatever_axes_lead():
    torch.manual_seed(0)
    layer, fields = FieldAttention(E, HEADS, D), torch.randn(2, 3, F, E)
    with torch.no_grad():
        out = layer(fields)
        assert out.shape == (2, 3, F, HEADS * D)
        for a in range(2):
            for b in range(3):
                torch.testing.assert_close(out[a, b], naive(layer, fields[a, b]), atol=1e-5, rtol=1e-5)


def test_fields_projected_apart_attend_as_those_projected_together():
    torch.manual_seed(0)
    layer, ours, theirs = FieldAttention(E, HEADS, D), torch.randn(2, E), torch.randn(3, E)
    apart = layer.attend(torch.cat([layer.project(ours), layer.project(theirs)]))
    torch.testing.assert_close(apart, layer(torch.cat([ours, theirs])))


def test_the_order_of_fields_does_not_matter():
    torch.manual_seed(0)
    layer, fields, turn = FieldAttention(E, HEADS, D), torch.randn(F, E), torch.tensor([2, 0, 3, 1])
    torch.testing.assert_close(layer(fields[turn]), layer(fields)[turn])


def test_costs_are_two_per_multiply_add():
    layer = FieldAttention(E, HEADS, D)
    assert layer.project_flops(F) == 2 * F * E * 4 * HEADS * D
    assert layer.attend_flops(F) == 2 * (2 * F * F * HEADS * D)
