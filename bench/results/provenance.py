"""The provenance of a record: versions, commit, machine, time, and what it cost."""

from __future__ import annotations

import functools
import math
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from iqarena.bench.checkout import ROOT

_PACKAGES = ("iqarena", "torch", "torchattacks", "adversarial-robustness-toolbox", "numpy", "scipy", "pillow")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


@functools.cache
def _source() -> dict[str, Any]:
    """Return the commit of the checkout that the code runs from; None where it runs from no checkout."""
    if not (ROOT / ".git").exists():
        return {"commit": None, "dirty": None}
    try:
        git = ["git", "-C", str(ROOT)]
        commit = subprocess.run(
            [*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "*.py"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": bool(changed.stdout.strip())}


@dataclass
class Costs:
    """The cost of evaluating a cell in this process; NaN where nothing was measured.

    Attributes:
        seconds: wall time; work shared with other cells that was already done is not counted.
        cpu_seconds: CPU time of all threads of the process.
        peak_memory_mib: peak memory of the process during that time, torch included; on systems other than Linux the peak
            since the process started.
        peak_gpu_memory_mib: peak memory of tensors on a CUDA device during that time.
    """

    seconds: float = math.nan
    cpu_seconds: float = math.nan
    peak_memory_mib: float = math.nan
    peak_gpu_memory_mib: float = math.nan


@contextmanager
def measure_costs() -> Iterator[Costs]:
    """Measure the costs of the code in the context; they are filled in at its end."""
    costs = Costs()
    _reset_peaks()
    started, cpu = time.perf_counter(), time.process_time()
    try:
        yield costs
    finally:
        costs.seconds, costs.cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
        costs.peak_memory_mib = peak_mib()
        if torch.cuda.is_initialized():
            costs.peak_gpu_memory_mib = torch.cuda.max_memory_allocated() // 2**20


def _reset_peaks() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the peak
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()


def peak_mib() -> int:
    """Return the peak memory of this process in MiB; on Linux without that of the process it was forked from."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) // 1024
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit // 2**20


def provenance(device: str = "cpu") -> dict[str, Any]:
    """Return versions, commit, machine and time as JSON values."""
    kind = torch.device(device).type
    return {
        "versions": _versions(),
        **_source(),
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": device,
        "device_name": torch.cuda.get_device_name(device) if kind == "cuda" else processor(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version()} | {name: _version(name) for name in _PACKAGES}


@functools.cache
def processor() -> str:
    """Return the name of this machine's processor."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
