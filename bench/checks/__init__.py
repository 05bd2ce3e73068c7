"""Checks for the tests of plugins.

`check_attack`, `check_defense` and `check_model` return the findings on a built plugin; `run_on_toy_model` attacks a toy
model, by default a `LinearToy`, whose best attack is known in closed form. Modules of this package import each other
directly and never from here, so that there is no import cycle.
"""

from iqarena.bench.checks.attack import check_attack
from iqarena.bench.checks.defense import check_defense
from iqarena.bench.checks.toy_run import LinearToy, run_on_toy_model
from iqarena.bench.inference.model_checks import probe as check_model

__all__ = ["LinearToy", "check_attack", "check_defense", "check_model", "run_on_toy_model"]
