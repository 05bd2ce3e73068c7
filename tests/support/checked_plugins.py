"""Plugins that pass every check, from which tests make faulty ones, and the outcome of the checks."""

from __future__ import annotations

from dataclasses import dataclass

from iqarena.attacks.base import Attack
from iqarena.bench.checks import check_attack, check_defense
from iqarena.defenses.purification.base import Purification
from iqarena.models.base import QualityModel


@dataclass(frozen=True)
class Good(Attack):
    """One step along the gradient's sign.

    Attributes:
        length: length of the step, as a share of the threat's size.
    """

    name = "good"
    access = "gradient"
    norms = ("linf",)
    paper = "of these tests"

    length: float = 1.0

    @property
    def passes(self):
        return 1, 1

    def run(self, target, images, objective, threat, generator):
        if target.queries_left == 0:
            return images
        _, gradient = target.quality_and_grad(images, objective.loss)
        return self.stay(images - self.length * threat.size * gradient.sign(), images, threat)

    def stay(self, attacked, images, threat):
        return threat.snap(threat.project(attacked, images), images)


def findings(plugin) -> dict[str, tuple[bool, str, str]]:
    """Check a plugin; return (ok, measured, advice) by the name of the check."""
    results = check_attack(plugin) if isinstance(plugin, Attack) else check_defense(plugin, ("cnniqa",))
    return {f.name: (f.ok, f.measured, f.advice) for f in results}


def made_of(base, members):
    """Build a subclass with other members, and return an instance with its default parameters."""
    namespace = {"__doc__": "Faulty on purpose.", "__module__": __name__, **members}
    return dataclass(frozen=True)(type("Faulty", (base,), namespace))()


@dataclass(frozen=True)
class Fine(Purification):
    """A filter that returns the images."""

    name = "fine"
    paper = "of these tests"

    def purifier(self):
        return lambda images: images * 1.0


class Wrapped(QualityModel):
    """A model with changed scores.

    Args:
        model: the model.
        change: maps scores and images to the changed scores.
    """

    def __init__(self, model, change) -> None:
        super().__init__()
        self.model, self.change, self.info = model, change, model.info

    def forward(self, images):
        return self.change(self.model(images), images)
