"""On what, from what and when a result was measured; and where it is written."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """The machine, the versions and the commit; ``load`` above zero warns of a busy neighbour."""
    return {
        "cpu": _line_of("/proc/cpuinfo", "model name") or platform.processor(),
        "features": [f for f in ("avx2", "avx512f", "avx512_vnni", "amx_bf16") if f in _flags()],
        "cores": os.cpu_count(),
        "ram_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"),
        "commit": _git("rev-parse", "--short", "HEAD"),
        "changed_files": len(_git("status", "--porcelain", "--untracked-files=no", "src").splitlines()),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write ``results/<name>.json``; returns where."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return path


def _flags() -> set[str]:
    return set(_line_of("/proc/cpuinfo", "flags").split())


def _line_of(path: str, name: str) -> str:
    """What stands behind the colon of the first line that begins with ``name``."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")


def _git(*command: str) -> str:
    done = subprocess.run(["git", *command], capture_output=True, text=True, check=False)
    return done.stdout.strip()
