"""IQArena: adversarial robustness of image quality models and their defenses.

The folders ``bench/``, ``attacks/``, ``defenses/`` and ``models/`` of the repository import as ``iqarena.bench``,
``iqarena.attacks``, ``iqarena.defenses`` and ``iqarena.models``. The names below are loaded when they are first used, so
that ``import iqarena`` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

_CHECKOUT = Path(__file__).resolve().parents[1]
if (_CHECKOUT / "pyproject.toml").is_file() and (_CHECKOUT / "bench").is_dir():
    # The packages that lie beside this folder, installed or not; else a copied tree would take those of the original.
    __path__.append(str(_CHECKOUT))

if TYPE_CHECKING:
    from iqarena.attacks.base import Attack
    from iqarena.attacks.objective import Objective
    from iqarena.attacks.threat import Threat
    from iqarena.bench.api import evaluate
    from iqarena.bench.datasets import open_dataset
    from iqarena.bench.datasets.base import ImageDataset, Sample
    from iqarena.bench.errors import UserError
    from iqarena.bench.inference.loading import load_model
    from iqarena.bench.results.report import Report
    from iqarena.defenses.base import Defense
    from iqarena.models.base import ModelInfo, QualityModel

_HOME = {
    "Attack": "attacks.base",
    "Defense": "defenses.base",
    "ImageDataset": "bench.datasets.base",
    "ModelInfo": "models.base",
    "Objective": "attacks.objective",
    "QualityModel": "models.base",
    "Report": "bench.results.report",
    "Sample": "bench.datasets.base",
    "Threat": "attacks.threat",
    "UserError": "bench.errors",
    "evaluate": "bench.api",
    "load_model": "bench.inference.loading",
    "open_dataset": "bench.datasets",
}
"""The module of each public name, below ``iqarena``."""

__all__ = [
    "Attack",
    "Defense",
    "ImageDataset",
    "ModelInfo",
    "Objective",
    "QualityModel",
    "Report",
    "Sample",
    "Threat",
    "UserError",
    "evaluate",
    "load_model",
    "open_dataset",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"iqarena.{_HOME[name]}"), name)
    raise AttributeError(f"module 'iqarena' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
