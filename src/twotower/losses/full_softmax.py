"""Softmax over many items, tile by tile: the matrix of logits never exists.

T rows (targets), N items, D vector length. Logits of T x N cost memory, page faults and several passes;
a tile of rows lives in cache, gives its loss *and* its gradient at once, and is overwritten by the next.
The gradient of cross entropy needs only the probabilities: d loss / d logits = p - onehot(target).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from twotower.losses.reduction import mean_shares
from twotower.losses.softmax import (
    MIN_Q,
    Correction,
    check_options,
    clip_log_q,
    default_target,
    log_complement,
)

TILE_BYTES = 2**22
"""Logits held at once: as much as a core's caches and their share of the next level keep at hand."""
MIN_TILE_ROWS = 64
"""A tile reads all items and their gradients once: with fewer rows that costs more than it saves."""


def full_softmax(
    query: Tensor,
    item: Tensor,
    target: Tensor,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    weight: Tensor | None = None,
    dtype: torch.dtype | None = None,
    tile_rows: int | None = None,
) -> Tensor:
    """Cross entropy over the whole catalogue: ``cross_entropy(query @ item.T / temperature + bias, target)``.

    | input       | shape  | meaning                                                               |
    |-------------|--------|-----------------------------------------------------------------------|
    | query       | (T, D) | query vectors, one per target                                         |
    | item        | (N, D) | all item vectors                                                      |
    | target      | (T,)   | row of each positive in ``item``                                      |
    | bias        | (N,)   | added to the logits after the temperature; learned                    |
    | temperature | scalar | a tensor is learned                                                   |
    | weight      | (T,)   | weight of each row in the mean, default 1                             |
    | dtype       |        | of the matrix products and tiles; default autocast's, else query's    |
    | tile_rows   | int    | rows of a tile; default from `TILE_BYTES`                             |

    Gradients flow to query, item, bias and temperature, and are computed in the forward pass, once: the graph
    may be walked back again, but has no second derivative. In bfloat16 they differ from the exact ones by
    about 1e-3 of their length; sums over a tile's products are kept in float32.

    Relations: no sampling, hence no logQ; `tiled_softmax` is the same machine for in-batch candidates.

    Recommendation: the strongest softmax where it is affordable, up to some 100,000 items; beyond that
    `tiled_softmax` with mixed negatives. Use bfloat16 where the processor multiplies it natively.

    >>> query, item = torch.eye(2), torch.eye(2)
    >>> full_softmax(query, item, torch.tensor([0, 1]))  # log(1 + exp(-1))
    tensor(0.3133)
    """
    return tiled_softmax(
        query,
        item,
        target,
        bias=bias,
        temperature=temperature,
        weight=weight,
        dtype=dtype,
        tile_rows=tile_rows,
    )


def tiled_softmax(
    query: Tensor,
    item: Tensor,
    target: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    temperature: float | Tensor = 1.0,
    log_q: Tensor | None = None,
    item_keys: Tensor | None = None,
    seen: Tensor | None = None,
    weight: Tensor | None = None,
    correction: Correction = "standard",
    min_q: float = MIN_Q,
    dtype: torch.dtype | None = None,
    tile_rows: int | None = None,
) -> Tensor:
    """`sampled_softmax` of the dot products of query (T, D) and shared item (N, D), without their matrix.

    Inputs beyond those of `full_softmax`: ``log_q`` (N,), ``item_keys`` (N,), ``seen`` (T, N) bool,
    ``correction`` and ``min_q``, all as in `twotower.losses.softmax.sampled_softmax`, whose value and
    gradients this equals (hard negatives, which need a sort of each row, are left to it).

    Raises
    ------
    ConfigError
        As `sampled_softmax`.

    >>> vectors = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    >>> tiled_softmax(vectors, vectors, temperature=2.0, item_keys=torch.tensor([3, 3]))
    tensor(0.)
    """
    check_options(temperature, log_q, correction)
    target = default_target((len(query), len(item)), target, query.device)
    if dtype is None:
        device = query.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    if query.dtype.itemsize < 4:
        query = query.float()
    item = item.to(query.dtype)
    query = query / temperature
    lift = None
    if log_q is not None:
        log_q = clip_log_q(log_q, min_q).to(query.dtype)
        bias = -log_q if bias is None else bias.to(query.dtype) - log_q
        if correction == "positive-free":
            own = log_q[target]
            lift = own - log_complement(own.exp())
    if bias is not None:
        query, item = _with_bias(query, item, bias.to(query.dtype), dtype)
    needs_gradient = torch.is_grad_enabled() and (query.requires_grad or item.requires_grad)
    return _tiled_cross_entropy(
        query,
        item,
        target,
        mean_shares(query[:, 0].detach(), weight),
        item_keys,
        seen,
        lift,
        dtype,
        tile_rows,
        needs_gradient,
    )


def _with_bias(query: Tensor, item: Tensor, bias: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Fold a column bias into the matrix product, where it is free; autograd finds its way back.

    The bias is centred first (softmax does not see a constant), and in a short dtype its rounding error
    goes into a column of its own.
    """
    bias = bias - bias.detach().mean()
    columns = [bias[:, None]]
    if dtype != query.dtype:
        error = (bias - bias.to(dtype).to(bias.dtype)).detach()
        columns = [(bias - error)[:, None], error[:, None]]
    ones = query.new_ones(len(query), len(columns))
    return torch.cat([query, ones], 1), torch.cat([item, *columns], 1)


class _TiledCrossEntropy(torch.autograd.Function):
    """Weighted cross entropy of query @ item.T; gradients to query and item, made with the loss."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,  # (T, D)
        item: Tensor,  # (N, D)
        target: Tensor,  # (T,)
        share: Tensor,  # (T,) of each row in the mean
        item_keys: Tensor | None,  # (N,)
        seen: Tensor | None,  # (T, N)
        lift: Tensor | None,  # (T,) what positive-free adds to the positive's logit, short of log n
        dtype: torch.dtype,
        tile_rows: int | None,
        needs_gradient: bool,
    ) -> Tensor:
        rows, columns = len(query), len(item)
        tile_rows = min(
            rows, tile_rows or max(MIN_TILE_ROWS, TILE_BYTES // (dtype.itemsize * max(1, columns)))
        )
        with torch.autocast(query.device.type, enabled=False):
            query_short, item_short = query.to(dtype), item.to(dtype)
            buffer = query_short.new_empty(tile_rows, columns)
            copies = None if item_keys is None else _Copies(item_keys, target)
            loss = query.new_zeros(())
            if needs_gradient:
                grad_query, grad_item = torch.empty_like(query), torch.zeros_like(item)
            for start in range(0, rows, max(1, tile_rows)):
                part = slice(start, min(start + tile_rows, rows))
                own, share_part = target[part, None], share[part]
                logits = torch.mm(query_short[part], item_short.T, out=buffer[: len(own)])
                positive = logits.gather(1, own)
                if copies is not None:
                    copies.mask(logits, part)
                if seen is not None:
                    logits.masked_fill_(seen[part], -torch.inf)
                if lift is not None:
                    log_drawn = _log_drawn(logits, own, copies, seen, part).to(query.dtype)
                    positive = (positive[:, 0] + (lift[part] + log_drawn)).to(dtype)[:, None]
                _put(logits, own, positive)  # the positive is never masked
                prob = _softmax_(logits)
                row_loss = _row_loss(prob, own, positive, query_short[part], item_short).to(query.dtype)
                if lift is not None:
                    miss = -torch.expm1(-row_loss)
                    row_loss = torch.xlogy(miss, miss) + miss * (row_loss + log_drawn)
                loss += row_loss @ share_part
                if needs_gradient:
                    scaled = query[part] * share_part[:, None]
                    grad_query[part] = torch.mm(prob, item_short) * share_part[:, None]
                    if dtype == query.dtype:
                        grad_item.addmm_(prob.T, scaled)
                    else:
                        grad_item += torch.mm(prob.T, scaled.to(dtype))
            if needs_gradient:
                grad_query.addcmul_(item[target], share[:, None], value=-1)
                grad_item.index_add_(0, target, query * share[:, None], alpha=-1)
                ctx.save_for_backward(grad_query, grad_item)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        grad_query, grad_item = ctx.saved_tensors
        return (grad_query * grad_loss, grad_item * grad_loss, *[None] * 8)


_tiled_cross_entropy: Callable[..., Tensor] = _TiledCrossEntropy.apply


def _put(logits: Tensor, own: Tensor, values: Tensor) -> Tensor:
    """Write one value (rows, 1) per row, in place. `scatter_` would copy the whole tile in a short dtype."""
    row = torch.arange(len(logits), device=logits.device)
    return logits.index_put_((row, own[:, 0]), values[:, 0])


def _softmax_(logits: Tensor) -> Tensor:
    """Softmax of each row, over the logits themselves where that is known to work.

    A second tile would cost a third of the speed. The CPU kernel finishes reading a row before it writes it;
    other devices promise nothing, and their allocators make a fresh tile cheap.
    """
    return torch.softmax(logits, 1, out=logits) if logits.device.type == "cpu" else torch.softmax(logits, 1)


def _row_loss(prob: Tensor, own: Tensor, positive: Tensor, query: Tensor, item: Tensor) -> Tensor:
    """-log of the positive's probability, (rows,); right where that probability underflows, too."""
    wide = torch.float32 if prob.dtype.itemsize < 4 else prob.dtype
    hit = prob.gather(1, own)[:, 0].to(wide)
    row_loss = -hit.log()
    lost = hit < 1e-30
    if (
        lost.any()
    ):  # then by way of the row's best column: log of the sum = its logit - log of its probability
        best = prob[lost].max(1)
        logit = (query[lost].to(wide) * item[best.indices].to(wide)).sum(1)
        row_loss[lost] = logit - best.values.to(wide).log() - positive[lost, 0].to(wide)
    return row_loss


def _log_drawn(
    logits: Tensor, own: Tensor, copies: _Copies | None, seen: Tensor | None, part: slice
) -> Tensor:
    """Log of the number of negatives each row has left, (rows,)."""
    if seen is not None:
        drawn = (_put(logits, own, torch.full_like(own, -torch.inf, dtype=logits.dtype)) != -torch.inf).sum(1)
    elif copies is not None:
        drawn = logits.shape[1] - copies.count[part]
    else:
        drawn = torch.full_like(own[:, 0], logits.shape[1] - 1)
    return drawn.clamp_min(1).double().log()


class _Copies:
    """The columns that hold the same key as a row's positive, found by one sort instead of T x N compares."""

    def __init__(self, item_keys: Tensor, target: Tensor) -> None:
        ordered, self.column = item_keys.sort()
        wanted = item_keys[target]
        self.first = torch.searchsorted(ordered, wanted)
        self.count = torch.searchsorted(ordered, wanted, right=True) - self.first

    def mask(self, logits: Tensor, part: slice) -> None:
        """Put minus infinity on all of them, the positive itself included, in the logits of some rows."""
        first, count = self.first[part], self.count[part]
        row = torch.repeat_interleave(torch.arange(len(logits), device=logits.device), count)
        within = torch.arange(len(row), device=logits.device) - (count.cumsum(0) - count)[row]
        logits[row, self.column[first[row] + within]] = -torch.inf
