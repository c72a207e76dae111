"""The values that travel between the parts.

Shape letters used everywhere: B rows of a batch, Q queries, C shared candidates, K candidates of one
query, L history positions, D vector length.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

PAD = 0
"""Index of padding in every vocabulary: never a real value, its embedding is zero."""
UNKNOWN = 1
"""Index of 'missing, or never seen in training' in every vocabulary."""
NO_ITEM = -1
"""Key of an empty candidate slot; its score is minus infinity."""


class Batch(dict[str, Tensor]):
    """Named tensors that share their first axis (or, for own candidates, their first two).

    >>> batch = Batch(age=torch.tensor([3, 5, 9]), tags=torch.zeros(3, 4))
    >>> batch.rows, batch.take(torch.tensor([2, 0]))["age"].tolist()
    (3, [9, 3])
    """

    @property
    def rows(self) -> int:
        """Length of the first axis; 0 when there is no tensor at all."""
        return next((len(tensor) for tensor in self.values()), 0)

    def take(self, index: Tensor) -> Batch:
        """Rows by position; an index of shape (Q, K) gives tensors of shape (Q, K, ...)."""
        flat = index.reshape(-1)
        return Batch(
            (name, t.index_select(0, flat).reshape(*index.shape, *t.shape[1:])) for name, t in self.items()
        )

    def slice(self, start: int, stop: int) -> Batch:
        return Batch((name, tensor[start:stop]) for name, tensor in self.items())

    def to(self, device: torch.device | str) -> Batch:
        return Batch((name, tensor.to(device, non_blocking=True)) for name, tensor in self.items())

    def join(self, other: Batch) -> Batch:
        """Both sets of tensors; a name on both sides is an error, never a silent overwrite."""
        twice = self.keys() & other.keys()
        if twice:
            raise ValueError(f"names on both sides: {sorted(twice)}")
        return Batch({**self, **other})


Rep = Batch
"""What a tower returns: the representation of entities, (Q, ...), (C, ...) or own candidates (Q, K, ...)."""


@dataclass(frozen=True)
class RepSpec:
    """One tensor of a `Rep`: trailing shape and dtype, so tables and planners know its bytes.

    A *ragged* tensor has (n, *shape) numbers of an item, with an n of its own: the tokens of a text. In a
    `Rep` it is padded with zeros, (C, L, *shape) or (Q, K, L, *shape), and beside it stands how many rows of
    it are real, `length`, (C,) or (Q, K) int64.

    >>> RepSpec("vector", (64,), "float32").bytes_per_item
    256
    >>> RepSpec("tokens", (64,), ragged=True).length
    'tokens_length'
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"
    ragged: bool = False

    @property
    def length(self) -> str:
        """Name of the tensor that holds the lengths of a ragged one."""
        return f"{self.name}_length"

    @property
    def bytes_per_item(self) -> int:
        """Bytes of one item; of one of its n rows, where it is ragged."""
        size: int = getattr(torch, self.dtype).itemsize
        for n in self.shape:
            size *= n
        return size


@dataclass(frozen=True)
class Ragged:
    """Lists of different length, one after the other: row i is ``values[offsets[i]:offsets[i + 1]]``.

    >>> lists = Ragged.of([[5, 6], [], [7]])
    >>> [row.tolist() for row in lists], lists.padded(fill=-1).tolist()
    ([[5, 6], [], [7]], [[5, 6], [-1, -1], [7, -1]])
    """

    values: Tensor  # (N, ...)
    offsets: Tensor  # (rows + 1,) int64, from 0 to N

    def __post_init__(self) -> None:
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.values) or (self.lengths < 0).any():
            raise ValueError("offsets must rise from 0 to the number of values")

    @classmethod
    def of(cls, rows: list[list[int]]) -> Ragged:
        lengths = torch.tensor([0, *(len(row) for row in rows)], dtype=torch.int64)
        values = torch.tensor([value for row in rows for value in row], dtype=torch.int64)
        return cls(values, lengths.cumsum(0))

    @property
    def lengths(self) -> Tensor:
        return self.offsets.diff()

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> Tensor:
        return self.values[int(self.offsets[row]) : int(self.offsets[row + 1])]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[row] for row in range(len(self)))

    def row_of_value(self) -> Tensor:
        """The row each value belongs to, (N,)."""
        return torch.repeat_interleave(torch.arange(len(self), device=self.offsets.device), self.lengths)

    def take(self, rows: Tensor) -> Ragged:
        """Chosen rows, in the order asked."""
        lengths = self.lengths[rows]
        offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
        within = torch.arange(int(offsets[-1])) - torch.repeat_interleave(offsets[:-1], lengths)
        return Ragged(self.values[torch.repeat_interleave(self.offsets[rows], lengths) + within], offsets)

    def padded(self, fill: int = 0, width: int | None = None) -> Tensor:
        """(rows, width) with each row's values on the left; longer rows lose their tail."""
        lengths = self.lengths
        if width is None:
            width = int(lengths.max()) if len(self) else 0
        column = torch.arange(width, device=self.values.device)
        inside = column < lengths[:, None]
        out = self.values.new_full((len(self), width, *self.values.shape[1:]), fill)
        out[inside] = self.values[(self.offsets[:-1, None] + column)[inside]]
        return out


@dataclass(frozen=True)
class Candidates:
    """Ranked candidates of Q queries, best first.

    Keys are catalogue numbers (see `twotower.data.catalogue`); empty slots hold `NO_ITEM` and score minus
    infinity, and stand last. Equal scores stand in the order of rising keys. ``pair`` keeps what earlier
    stages knew of each pair (their scores and ranks), aligned with ``keys``.
    """

    keys: Tensor  # (Q, K) int64
    scores: Tensor  # (Q, K) float32
    pair: Batch = field(default_factory=Batch)  # each (Q, K, ...)

    def __post_init__(self) -> None:
        if self.keys.shape != self.scores.shape or self.keys.dim() != 2:
            raise ValueError(
                f"keys {tuple(self.keys.shape)} and scores {tuple(self.scores.shape)} must be (Q, K)"
            )
        for name, tensor in self.pair.items():
            if tensor.shape[:2] != self.keys.shape:
                raise ValueError(f"pair field {name!r} has shape {tuple(tensor.shape)}, expected (Q, K, ...)")

    @property
    def mask(self) -> Tensor:
        """(Q, K) bool: true where there is a candidate."""
        return self.keys != NO_ITEM

    @property
    def counts(self) -> Tensor:
        """(Q,) number of real candidates per query."""
        return self.mask.sum(1)

    def best(self, k: int) -> Candidates:
        """The first k columns; fewer when there are fewer."""
        return self.columns(0, k)

    def columns(self, start: int, stop: int) -> Candidates:
        """The columns start..stop of every query."""
        pair = Batch((n, t[:, start:stop]) for n, t in self.pair.items())
        return Candidates(self.keys[:, start:stop], self.scores[:, start:stop], pair)

    def sorted(self) -> Candidates:
        """Best first by score, ties by rising key, empty slots last. Stable and exact.

        A score that is NaN ranks as minus infinity, last of the real candidates, and stays NaN.

        >>> keys, scores = torch.tensor([[1, 2, NO_ITEM, 3]]), torch.tensor([[0.5, torch.nan, 9.0, 0.75]])
        >>> Candidates(keys, scores).sorted().keys.tolist()
        [[3, 1, 2, -1]]
        """
        empty = ~self.mask
        holes = bool(empty.any())
        scores = self.scores.masked_fill(empty, -torch.inf)
        rank_by = scores.masked_fill(scores.isnan(), -torch.inf)
        keys = self.keys.masked_fill(empty, torch.iinfo(torch.int64).max) if holes else self.keys
        by_key = keys.argsort(dim=1, stable=True)
        order = by_key.gather(1, rank_by.gather(1, by_key).argsort(dim=1, descending=True, stable=True))
        if holes:  # a real candidate that scored minus infinity still precedes an empty slot
            order = order.gather(1, empty.gather(1, order).to(torch.int8).argsort(dim=1, stable=True))
        return Candidates(
            self.keys.gather(1, order),
            scores.gather(1, order),
            Batch((n, _gather_rows(t, order)) for n, t in self.pair.items()),
        )

    def with_pair(self, **fields: Tensor) -> Candidates:
        return replace(self, pair=Batch({**self.pair, **fields}))


def _gather_rows(tensor: Tensor, order: Tensor) -> Tensor:
    index = order.reshape(*order.shape, *[1] * (tensor.dim() - 2)).expand(*order.shape, *tensor.shape[2:])
    return tensor.gather(1, index)
