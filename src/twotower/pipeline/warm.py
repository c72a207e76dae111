"""Begin where an earlier run ended: its vocabularies grown, its weights taken over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from twotower.data.features import Features
from twotower.errors import ConfigError
from twotower.models.base import Model
from twotower.models.catalogue import load_model
from twotower.nn.embedding import Embeddings
from twotower.pipeline.bundles.manifest import MANIFEST, check, stored_digest
from twotower.pipeline.bundles.root import CURRENT, find_version
from twotower.pipeline.workspace import Workspace, write_text
from twotower.train.warm_start import WarmStart, warm_start


class Earlier:
    """A finished run to start from. New ids begin as the unknown row: the first scores are the old ones.

    A root of bundles stands for its current version; a version is checked, unless its ``digest`` is known.
    """

    def __init__(
        self, directory: str | Path, digest: str | None = None, models: Mapping[str, str] | None = None
    ) -> None:
        """With the ``digest`` of its features and those of its ``models`` the run itself may be gone."""
        if digest is None and any((Path(directory) / name).exists() for name in (CURRENT, MANIFEST)):
            directory = find_version(directory)
            check(directory, stored_digest(directory))
        self.space = Workspace(directory)
        self.digest = digest or self.features.digest()
        self.models = _models(self.space) if digest is None else dict(models or {})

    @cached_property
    def features(self) -> Features:
        return Features.load(self.space.data / "features")

    @classmethod
    def remembered(cls, space: Workspace) -> Earlier | None:
        """What the run in this workspace was started from; the earlier run may be gone since."""
        path = space.directory / "warm.json"
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None

    def check_apart(self, space: Workspace) -> None:
        """Refuse to start a run from itself: its first step would remove what it shall start from.

        Raises
        ------
        ConfigError
            The two directories are one, or one lies in the other.
        """
        earlier, own = self.space.directory.resolve(), space.directory.resolve()
        if earlier == own or earlier in own.parents or own in earlier.parents:
            how = "is" if earlier == own else "lies in" if own in earlier.parents else "holds"
            raise ConfigError(
                f"warm start from {self.space.directory}: it {how} the directory of the new run, "
                f"{space.directory}, which would be overwritten; give another --out"
            )

    def remember(self, space: Workspace) -> None:
        about = {"directory": str(self.space.directory.resolve()), "digest": self.digest}
        write_text(space.directory / "warm.json", json.dumps(about | {"models": self.models}, indent=2))

    def start(self, name: str, about: str, model: Model, features: Features) -> WarmStart:
        """Copy the earlier run's model of this name into ``model``, whose vocabularies are ``features``'.

        ``about`` says what it is, as in recipes; a warm start needs the same, and imports no other's code.
        """
        old = load_model(self.space.model(name), only=about)
        rows = features.rows_in(self.features)
        parts = {path: part for path, part in old.named_modules() if isinstance(part, Embeddings)}
        maps = {
            f"{path}.table.weight": _table_map(part, old_part, rows)
            for path, part in model.named_modules()
            if isinstance(part, Embeddings) and (old_part := parts.get(path)) is not None
        }
        return warm_start(model, old.state_dict(), maps)


def _models(space: Workspace) -> dict[str, str]:
    """Name and digest of the models there are."""
    found = sorted(space.model("").glob("*/model.json"))
    return {path.parent.name: json.loads(path.read_text(encoding="utf-8"))["digest"] for path in found}


def _table_map(new: Embeddings, old: Embeddings, rows: Mapping[str, np.ndarray]) -> Tensor:
    """(rows of the new table,) the old table's row that each starts from; -1 for a column that is new."""
    out = torch.full((new.table.num_embeddings,), -1, dtype=torch.int64)
    for name, start in new.starts.items():
        if name in rows and name in old.starts:
            own = torch.from_numpy(rows[name])
            out[start : start + len(own)] = own + old.starts[name]
    return out
