"""`iqarena check`: all attacks and defenses of the project pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from iqarena.attacks.ensemble import Ensemble
from iqarena.bench.checks import check_attack, check_defense
from iqarena.bench.registry import ATTACKS, DEFENSES
from tests.support.attack_runs import SEARCHES
from tests.support.checked_plugins import made_of

LIGHT = {
    **SEARCHES,
    **{
        f"art:{name}": "[max_iter=3]"
        for name in (
            "AutoConjugateGradient",
            "AutoProjectedGradientDescent",
            "BasicIterativeMethod",
            "MomentumIterativeMethod",
            "ProjectedGradientDescent",
            "RescalingAutoConjugateGradient",
        )
    },
    "art:CarliniLInfMethod": "[amount=0.05]",
    "art:CarliniL2Method": "[max_iter=5,binary_search_steps=2]",
    "art:ElasticNet": "[max_iter=5,binary_search_steps=2]",
}
"""Small budgets for attacks of other libraries, whose strength does not matter here."""

SHORT = {"queries": 60, "steps": 5, "epochs": 1, "restarts": 1, "draws": 4, "certify_draws": 50}
"""Largest values of parameters that make an attack or a defense slow."""

ELSEWHERE = {"zhang-dists"}
"""Attacks that need a file; they are tested elsewhere."""


def light(plugin):
    """Return the plugin with a small budget, and an ensemble with small members."""
    cut = {name: min(limit, getattr(plugin, name)) for name, limit in SHORT.items() if hasattr(plugin, name)}
    if isinstance(plugin, Ensemble):
        members = tuple((light(member), kind) for member, kind in plugin.members)
        return made_of(type(plugin), {"members": members})
    return replace(plugin, **cut)


@pytest.mark.parametrize("name", [name for name in ATTACKS.names() if name not in ELSEWHERE])
def test_every_built_in_attack_passes(name: str) -> None:
    attack = light(ATTACKS.build(name + LIGHT.get(name, "")))
    bad = [f for f in check_attack(attack) if not f.ok]
    assert not bad, bad


WEIGHTLESS = {"diffpure"}
"""Defenses whose weights are not shipped; they are tested elsewhere."""

ALLOWED = {"randomized-smoothing": {"repeats"}, "denoised-randomized-smoothing": {"repeats"}}
"""Checks that may fail: a vote of noisy copies mostly gives the same result."""


@pytest.mark.parametrize("name", [name for name in DEFENSES.names() if name not in WEIGHTLESS])
def test_every_built_in_defense_passes(name: str) -> None:
    bad = [f for f in check_defense(light(DEFENSES.build(name)), ("cnniqa", "resnet-iqa")) if not f.ok]
    assert not [f for f in bad if f.name not in ALLOWED.get(name, ())], bad
