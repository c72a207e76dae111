"""What is measured: data, depths to try, and what is asked of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Setting:
    """One catalogue, its recipe (the file of the same name) and the planner's grid."""

    folder: str | None  # of the data; None is generated
    time_share: float  # of the full ranking's time that the cascade may take
    retrieve: tuple[int, ...]
    prerank: tuple[int, ...]
    rank: tuple[int, ...] = (10, 20)
    floor: float = 0.97
    """Overlap@10 with the full ranking on validation queries: a plan below it is not chosen."""
    judged_by: int = 10_000  # test queries at most
    planned_by: int = 2_000  # validation queries at most
    compared_by: int = 500  # of them, those for which the whole catalogue is ranked
    timed: int = 200  # test requests
    rounds: int = 30  # single requests behind the planner's costs
    drawn: tuple[int, int] | None = (100, 100)
    """Retrieved and drawn items of a list that teaches a ranker; None where it learns from clicks."""

    @property
    def depths(self) -> dict[str, tuple[int, ...]]:
        return {"retrieve": self.retrieve, "prerank": self.prerank, "rank": self.rank}


ML_1M = Setting(
    folder="ml-1m",
    time_share=1 / 3,
    retrieve=(20, 50, 100, 200, 500, 1000),
    prerank=(10, 20, 50, 100, 200, 500),
)
SETTINGS = {
    "ml-1m-time": ML_1M,
    "ml-1m-leave-last-out": ML_1M,
    "synthetic-1m": Setting(
        folder=None,
        time_share=1 / 100,
        retrieve=(200, 500, 1000, 2000),
        prerank=(20, 50, 100, 200),
        floor=0.98,  # relevant items are rare among so many: a small difference is all that can be shown
        judged_by=2_000,
        planned_by=240,
        compared_by=64,
        timed=30,
        drawn=None,
    ),
}
