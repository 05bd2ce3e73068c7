"""Cells, into which a suite is expanded: the units of work and of resumption, and the rows of summary.csv."""

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
"""Version of the protocol: to be raised with every change of `bench`, or of a base class, that changes a cell's numbers.

It is part of every cell's id. A test compares the numbers of some small cells with the expected ones of this version.
"""


@dataclass(frozen=True)
class Cell:
    """One combination of data set, model, defense, attack, threat model and setting; specs as written in the suite."""

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
    source: str = ""  # in the setting `transfer`: the model on which images are crafted
    precision: Precision = "float32"  # of gradients

    @property
    def parts(self) -> dict[str, Any]:
        """The fields of the cell by name."""
        return {name: getattr(self, name) for name in _FIELDS}

    @property
    def defended(self) -> str:
        """Display name of the deployed model."""
        return self.model if self.defense == "none" else f"{self.model} + {self.defense}"

    @property
    def threat(self) -> Threat:
        """The threat model."""
        return Threat(self.norm, self.eps, self.queries)

    @property
    def crafted_on(self) -> tuple[str, str]:
        """The model that the attack sees, and its defense: `none` unless the attack is adaptive."""
        return self.source or self.model, self.defense if self.setting == "adaptive" else "none"

    @property
    def model_and_threat(self) -> tuple[object, ...]:
        """The model under attack and the threat model, by which cells are grouped in the plan."""
        return (self.crafted_on, self.threat)

    @cached_property
    def crafting(self) -> str:
        """Key of everything that the attacked images depend on; cells with the same key share their attacked images."""
        parts = self.parts | dict(zip(("model", "defense"), self.crafted_on, strict=True))
        del parts["setting"], parts["source"]
        return json.dumps(parts, sort_keys=True)


_FIELDS = [field.name for field in fields(Cell)]


def digest(*parts: object) -> str:
    """Return the sha256 of JSON-serialised values, in hex."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def expand(suite: Suite) -> list[Cell]:
    """Expand a suite to its cells, with cells that share attacked images next to each other.

    Cells are sorted by the model under attack and the threat model, then by the attack. So the members of an ensemble,
    which are cells as well, are near the ensemble.

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
    for index, cell in enumerate(cells):
        for group in (cell.model_and_threat, cell.crafting):
            first.setdefault(group, index)
    return sorted(dict.fromkeys(cells), key=lambda cell: (first[cell.model_and_threat], first[cell.crafting]))


def _given(part: Part) -> dict[str, Any]:
    """Return the fields that a part replaces."""
    return {name: value for name in Part.model_fields if (value := getattr(part, name)) is not None}


def _product(suite: Suite) -> Iterator[Cell]:
    """Yield all combinations of the lists of a suite, without its parts."""
    for model in suite.models:
        for attack in suite.attacks:
            supported = ATTACKS.build(attack.attack).objectives
            for objective in attack.objectives or (["away"] if "away" in supported else list(supported)):
                for threat in suite.threats:
                    for defense in suite.defenses:
                        for setting, source in _settings(suite, model):
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


def _settings(suite: Suite, model: str) -> list[tuple[Setting, str]]:
    """Return the settings in which a model is attacked, each with the source model of a transfer attack, else "".

    The transfer from a model to itself is omitted, since it is the oblivious cell.
    """
    sources = [source for source in suite.transfer_from or suite.models if source != model]
    settings = dict.fromkeys(suite.settings)
    if suite.transfer_from:
        settings["transfer"] = None
    return [(setting, source) for setting in settings for source in (sources if setting == "transfer" else [""])]


SIZES: dict[str, str] = {"linf": "2/255", "l2": "1", "l0": "0.001", "patch": "0.02", "ssim": "0.05"}


SYMBOLS: dict[Norm, str] = {"linf": "ℓ∞", "l2": "ℓ2", "l0": "share of pixels", "patch": "share of area", "ssim": "1 − SSIM"}
