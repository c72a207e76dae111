"""All that the funnel page shows, measured: the page itself computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from twotower.evaluate.experiment import Experiment
from twotower.evaluate.latency import Latency
from twotower.evaluate.places import Places
from twotower.evaluate.reliability import Bin
from twotower.evaluate.shown import ShownRequest
from twotower.evaluate.slices import Slice


@dataclass(frozen=True)
class Calibration:
    """How well the probabilities of a model mean what they say, on labelled events of the part."""

    model: str
    bins: tuple[Bin, ...]
    error: float  # expected calibration error
    auc: float
    rows: int


@dataclass(frozen=True)
class Timing:
    """Single requests on one thread, under the cascade's own budget."""

    latency: Mapping[str, Latency]  # by stage, and ``total``
    asked: int
    degraded: Mapping[str, int]  # stage -> requests it did not order
    late: Mapping[str, int]  # stage -> requests it took too long for
    budget: str  # in words; empty when there is none


@dataclass(frozen=True)
class FunnelFacts:
    """One cascade on one part of the data."""

    name: str
    part: str
    n_items: int
    measures: Sequence[str]  # the first one is the main one
    experiment: Experiment  # without a budget: what the stages can do
    places: Places
    timing: Timing
    slices: Sequence[Slice]
    calibrations: Sequence[Calibration]
    uncalibrated: str  # why there is no calibration; empty when there is
    requests: Sequence[ShownRequest]
    notes: Sequence[str]
    samples: int  # bootstrap samples behind the intervals
