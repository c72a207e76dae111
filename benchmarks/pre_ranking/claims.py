"""What papers claim of these models, and what our intervals say to it."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.pre_ranking.intervals import Difference
from benchmarks.pre_ranking.results import Results, at_bound, values

ENOUGH = 3
"""Seeds that a verdict rests on."""


@dataclass(frozen=True)
class Claim:
    """``better`` has the higher AUC than ``worse``."""

    text: str
    better: str
    worse: str
    by: str


INT_TOWER, COLD, OURS = "IntTower", "COLD", "this page"
CLAIMS = (
    Claim("DAT beats the two-tower", "dat", "two-tower", "DAT, IntTower"),
    Claim("IntTower beats DAT", "int-tower", "dat", INT_TOWER),
    Claim("IntTower beats the two-tower", "int-tower", "two-tower", INT_TOWER),
    Claim("IntTower beats COLD", "int-tower", "cold", INT_TOWER),
    Claim("Light-SE helps IntTower", "int-tower", "int-tower-no-gate", INT_TOWER),
    Claim("Light-SE beats SENET in IntTower", "int-tower", "int-tower-senet", INT_TOWER),
    Claim("FE-Block helps IntTower", "int-tower", "int-tower-dot", INT_TOWER),
    Claim("FE-Block on all layers beats the last's", "int-tower", "int-tower-last", INT_TOWER),
    Claim("CIR helps IntTower", "int-tower", "int-tower-no-cir", INT_TOWER),
    Claim("IntTower without CIR beats the two-tower", "int-tower-no-cir", "two-tower", OURS),
    Claim("Light-SE and CIR (inner product) beat the two-tower", "int-tower-dot", "two-tower", OURS),
    Claim("CIR alone helps the two-tower", "int-tower-cir-alone", "two-tower", OURS),
    Claim("learned layer weights help IntTower", "int-tower", "int-tower-no-scale", OURS),
    Claim("DAT's mimic losses help", "dat", "dat-no-mimic", "DAT"),
    Claim("DAT's category alignment helps", "dat", "dat-no-alignment", "DAT"),
    Claim("DAT without alignment beats the two-tower", "dat-no-alignment", "two-tower", OURS),
    Claim("COLD beats the two-tower", "cold", "two-tower", f"{COLD}, IntTower"),
    Claim("DCN beats COLD", "dcn", "cold", INT_TOWER),
    Claim("COLD's choice of groups helps", "cold-chosen", "cold", OURS),
    Claim("COLD with chosen groups beats the two-tower", "cold-chosen", "two-tower", COLD),
    Claim("IntTower beats DCN", "int-tower", "dcn", INT_TOWER),
    Claim("DCN-V2 beats DCN", "dcn-v2", "dcn", "DCN-V2"),
    Claim("MoL beats the inner product", "mol", "two-tower", "MoL"),
    Claim("FIT beats IntTower", "fit", "int-tower", "FIT"),
    Claim("the mean of the history helps the two-tower", "two-tower-mean", "two-tower", OURS),
    Claim("the mean of the history helps IntTower", "int-tower-mean", "int-tower", OURS),
    Claim("the mean of the history helps DCN-V2", "dcn-v2-mean", "dcn-v2", OURS),
    Claim("DIN beats DCN-V2 with a mean of the history", "din", "dcn-v2-mean", OURS),
    Claim("a pooled history helps the two-tower", "two-tower-pooling", "two-tower", OURS),
    Claim("a pooled history helps DCN-V2", "dcn-v2-pooling", "dcn-v2", OURS),
    Claim("DIN beats DCN-V2 with a pooled history", "din", "dcn-v2-pooling", OURS),
)


@dataclass(frozen=True)
class Verdict:
    """A claim on one data set."""

    claim: Claim
    auc: Difference
    log_loss: Difference
    agreeing: int  # seeds whose own difference in AUC has the sign of the mean
    seeds: int
    at_bound: tuple[int, int] = (0, 0)  # trainings of both models that the bound on epochs ended

    @property
    def word(self) -> str:
        """What the interval of the AUC says, over users and seeds; there must be enough of these."""
        if self.seeds < ENOUGH:
            return "too few seeds"
        if self.auc.sign == 0:
            return "not told apart"
        return "confirmed" if self.auc.sign > 0 else "refuted"


def judge(results: Results, data: str) -> list[Verdict]:
    """All claims of which both models have cells of a common seed, and of the search's present settings."""
    draws, found = results.draws(data), []
    if draws is None:
        return []
    for claim in CLAIMS:
        seeds = results.seeds(data, claim.better, claim.worse)
        if not seeds or any(results.outdated(data, model) for model in (claim.better, claim.worse)):
            continue
        auc, loss = (draws.difference(claim.better, claim.worse, seeds, m) for m in ("AUC", "log loss"))
        pairs = [_auc_by_seed(results, data, model, seeds) for model in (claim.better, claim.worse)]
        agreeing = sum((a - b) * auc.mean > 0 for a, b in zip(*pairs, strict=True))
        cells = [[c for c in results.of(data, m) if c["seed"] in seeds] for m in (claim.better, claim.worse)]
        bounded = sum(map(at_bound, cells[0])), sum(map(at_bound, cells[1]))
        found.append(Verdict(claim, auc, loss, agreeing, len(seeds), bounded))
    return found


def missing(results: Results, data: str) -> list[str]:
    """Models that a claim needs and the data set has no cell of."""
    needed = [model for claim in CLAIMS for model in (claim.better, claim.worse)]
    return [model for model in dict.fromkeys(needed) if not results.of(data, model)]


def _auc_by_seed(results: Results, data: str, model: str, seeds: list[int]) -> list[float]:
    cells = [cell for cell in results.of(data, model) if cell["seed"] in seeds]
    return values(sorted(cells, key=lambda cell: int(cell["seed"])), "test", "AUC")
