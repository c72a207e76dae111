"""Models by name, and their files: safetensors beside JSON, never pickle."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import safetensors.torch

from twotower.config import Config, nearest
from twotower.data.spec import FeatureSpec
from twotower.errors import ConfigError, MismatchError, StorageError
from twotower.models.base import Model

MODELS: dict[str, tuple[str, str, str]] = {
    "click-rate": ("twotower.models.click_rate", "ClickRate", "ClickRateConfig"),
    "logistic-regression": (
        "twotower.models.logistic_regression",
        "LogisticRegression",
        "LogisticRegressionConfig",
    ),
    "dual-encoder": ("twotower.models.dual_encoder", "DualEncoder", "DualEncoderConfig"),
    "two-tower": ("twotower.models.two_tower", "TwoTower", "TwoTowerConfig"),
    "dat": ("twotower.models.dat", "DAT", "DATConfig"),
    "int-tower": ("twotower.models.int_tower", "IntTower", "IntTowerConfig"),
    "fit": ("twotower.models.fit", "FIT", "FITConfig"),
    "mol": ("twotower.models.mol", "MoL", "MoLConfig"),
    "wide-and-deep": ("twotower.models.wide_and_deep", "WideAndDeep", "WideAndDeepConfig"),
    "deepfm": ("twotower.models.deepfm", "DeepFM", "DeepFMConfig"),
    "fscd": ("twotower.models.fscd", "FSCD", "FSCDConfig"),
    "cold": ("twotower.models.cold", "COLD", "COLDConfig"),
    "dcn": ("twotower.models.dcn", "DCN", "DCNConfig"),
    "autoint": ("twotower.models.autoint", "AutoInt", "AutoIntConfig"),
    "din": ("twotower.models.din", "DIN", "DINConfig"),
    "dcn-v2": ("twotower.models.dcn_v2", "DCNv2", "DCNv2Config"),
    "colbert": ("twotower.models.colbert", "ColBERT", "ColBERTConfig"),
    "knrm": ("twotower.models.knrm", "KNRM", "KNRMConfig"),
    "conv-knrm": ("twotower.models.conv_knrm", "ConvKNRM", "ConvKNRMConfig"),
    "drmm": ("twotower.models.drmm", "DRMM", "DRMMConfig"),
    "match-pyramid": ("twotower.models.match_pyramid", "MatchPyramid", "MatchPyramidConfig"),
    "prm": ("twotower.models.prm", "PRM", "PRMConfig"),
    "cross-encoder": ("twotower.models.cross_encoder", "CrossEncoder", "CrossEncoderConfig"),
}
"""Name in recipes -> module, model class, config class."""


def model_class(name: str) -> tuple[type[Model], type[Config]]:
    """Classes behind a name; ``package.module:Model`` finds a user's own, whose config class is
    ``Model.Config``."""
    if name in MODELS:
        module, model, config = MODELS[name]
        place = importlib.import_module(module)
        return getattr(place, model), getattr(place, config)
    module, _, model = name.partition(":")
    if not model:
        raise ConfigError(f"no model is called {name!r}{nearest(name, MODELS)}")
    try:
        found = getattr(importlib.import_module(module), model)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"cannot import the model {name!r}: {error}{_remedy(module, error)}") from error
    return found, found.Config


def _remedy(module: str, error: Exception) -> str:
    """What helps where the user's own package is not found; what it misses itself, the error names."""
    if not isinstance(error, ModuleNotFoundError) or not f"{module}.".startswith(f"{error.name}."):
        return ""
    return "; install its package, or run `PYTHONPATH=. twotower ...` where it lies in the current folder"


def make_model(name: str, spec: FeatureSpec, config: dict[str, Any]) -> Model:
    """A fresh model; a wrong key of the config is an error that names the nearest right one."""
    cls, config_class = model_class(name)
    return cls(spec, config_class.parse(config, where=f"model {name}"))


def save_model(model: Model, name: str, directory: Path) -> None:
    """Write ``model.safetensors`` and ``model.json``; the digest of the second seals the first."""
    directory.mkdir(parents=True, exist_ok=True)
    about = {
        "model": name,
        "config": model.config.plain(),
        "spec": model.spec.plain(),
        "digest": model.digest(),
    }
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    try:
        safetensors.torch.save_file(tensors, directory / "model.safetensors")
        (directory / "model.json").write_text(json.dumps(about, indent=2), encoding="utf-8")
    except (OSError, safetensors.SafetensorError) as error:
        raise StorageError(f"{directory}: the model could not be written: {error}") from error


def load_model(directory: Path, only: str | None = None) -> Model:
    """The model as it was saved, in eval mode; refuses files that do not belong together.

    ``only`` is the name it must have been saved under: another is refused before any code of it is imported.
    """
    try:
        about = json.loads((directory / "model.json").read_text(encoding="utf-8"))
        tensors = safetensors.torch.load_file(directory / "model.safetensors")
    except FileNotFoundError as error:
        raise StorageError(f"{directory}: no trained model here ({error.filename} is missing)") from None
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise StorageError(f"{directory}: the model cannot be read: {error}") from error
    if not {"model", "config", "spec", "digest"} <= about.keys():
        raise StorageError(f"{directory / 'model.json'}: no description of a model; save the model again")
    if only is not None and about["model"] != only:
        raise MismatchError(f"{directory} holds a {about['model']!r}, not a {only!r}")
    spec = FeatureSpec.parse(about["spec"], where=str(directory / "model.json"))
    model = make_model(about["model"], spec, about["config"])
    try:
        model.load_state_dict(tensors)
        belong = model.digest() == about["digest"]
    except RuntimeError:  # other names or shapes
        belong = False
    if not belong:
        raise MismatchError(
            f"{directory}: weights and model.json do not belong together; save the model again"
        )
    return model.eval()
