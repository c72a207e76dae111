"""Optional packages, asked for at the moment they are needed."""

from __future__ import annotations

import importlib
from types import ModuleType

from twotower.errors import MissingExtra


def require(module: str, extra: str) -> ModuleType:
    """Import ``module`` or say which extra of twotower brings it.

    >>> require("json", extra="none").__name__
    'json'
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or module.split(".")[0] != error.name.split(".")[0]:
            raise  # the package is there, but something inside it is broken
        raise MissingExtra(f"{module} is not installed; run: pip install 'twotower[{extra}]'") from error
