"""From a suite to cells: the units of work, of resume and of the table."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

from iqarena.attacks.objective import Kind
from iqarena.attacks.threat import Norm, Threat
from iqarena.bench.registry import ATTACKS
from iqarena.bench.suite import Part, Precision, Setting, Suite

PROTOCOL = 2
"""Of the harness: to be raised with every change of `bench`, or of a contract, that moves a cell's numbers.

It is part of every cell's id. A test holds the numbers of some small cells against those of the protocol that it names.
"""


@dataclass(frozen=True)
class Cell:
    """One combination; everything as written in the suite."""

    dataset: str
    model: str
    defense: str
    attack: str
    objective: Kind
    norm: Norm
    eps: float
    queries: int | None
    setting: Setting
    seed: int
    draws: int
    target: float = 1.0
    source: str = ""  # in the setting `transfer`: the model that is attacked instead
    precision: Precision = "float32"  # of gradients

    @property
    def parts(self) -> dict[str, Any]:
        """Its fields by name."""
        return {name: getattr(self, name) for name in _FIELDS}

    @property
    def defended(self) -> str:
        """What is scored, in words."""
        return self.model if self.defense == "none" else f"{self.model} + {self.defense}"

    @property
    def threat(self) -> Threat:
        """The threat model."""
        return Threat(self.norm, self.eps, self.queries)

    @property
    def crafted_on(self) -> tuple[str, str]:
        """The model that the attack sees, and the defense: `none` where it does not know of the defense."""
        return self.source or self.model, self.defense if self.setting == "adaptive" else "none"

    @property
    def scene(self) -> tuple[object, ...]:
        """What the attacks of a cell and of its neighbours in the plan have in common."""
        return (self.crafted_on, self.threat)

    @cached_property
    def crafting(self) -> str:
        """Names what the attacked images depend on; cells that agree in it share them."""
        parts = self.parts | dict(zip(("model", "defense"), self.crafted_on, strict=True))
        del parts["setting"], parts["source"]
        return json.dumps(parts, sort_keys=True)


_FIELDS = [field.name for field in fields(Cell)]


def digest(*parts: object) -> str:
    """sha256 of some values, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def expand(suite: Suite) -> list[Cell]:
    """All cells of a suite, those that share attacked images next to each other.

    What an attacker attacks comes first, then the threat model, then the attack: so an ensemble's members, which are cells
    of their own, are near it.

    Raises:
        UserError: for an unknown attack.

    Example:
        >>> from iqarena.bench.suite import validated
        >>> suite = validated({"models": ["cnniqa"], "defenses": ["none", "jpeg"], "attacks": ["fgsm"]})
        >>> [(cell.defense, cell.setting) for cell in expand(suite)]
        [('none', 'oblivious'), ('none', 'adaptive'), ('jpeg', 'oblivious'), ('jpeg', 'adaptive')]
    """
    parts = [suite, *(suite.model_copy(update=_given(part)) for part in suite.parts)]
    cells = [cell for part in parts for cell in _product(part)]
    first: dict[object, int] = {}
    for place, cell in enumerate(cells):
        for group in (cell.scene, cell.crafting):
            first.setdefault(group, place)
    return sorted(dict.fromkeys(cells), key=lambda cell: (first[cell.scene], first[cell.crafting]))


def _given(part: Part) -> dict[str, Any]:
    """The fields that a part replaces."""
    return {name: value for name in Part.model_fields if (value := getattr(part, name)) is not None}


def _product(suite: Suite) -> Iterator[Cell]:
    """Every combination of a suite's own lists."""
    for model in suite.models:
        for attack in suite.attacks:
            able = ATTACKS.build(attack.attack).objectives
            for objective in attack.objectives or (["away"] if "away" in able else list(able)):
                for threat in suite.threats:
                    for defense in suite.defenses:
                        for setting, source in _views(suite, model):
                            yield Cell(
                                suite.dataset,
                                model,
                                defense,
                                attack.attack,
                                objective,
                                threat.norm,
                                threat.eps,
                                threat.queries,
                                setting,
                                suite.seed,
                                suite.draws,
                                attack.target,
                                source,
                                suite.precision,
                            )


def _views(suite: Suite, model: str) -> list[tuple[Setting, str]]:
    """The settings in which a model is attacked, each with the model crafted on where that is another one.

    A model's transfer to itself is its oblivious cell.
    """
    sources = [source for source in suite.transfer_from or suite.models if source != model]
    settings = dict.fromkeys(suite.settings)
    if suite.transfer_from:
        settings["transfer"] = None
    return [(setting, source) for setting in settings for source in (sources if setting == "transfer" else [""])]


SIZES: dict[str, str] = {"linf": "2/255", "l2": "1", "l0": "0.001", "patch": "0.02", "ssim": "0.05"}


SYMBOLS: dict[Norm, str] = {"linf": "ℓ∞", "l2": "ℓ2", "l0": "share of pixels", "patch": "share of area", "ssim": "1 − SSIM"}
