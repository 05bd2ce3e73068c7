"""`torchattacks:CLASS`: attacks of the torchattacks library (Kim, arXiv 2010.01950), on a quality model.

They are written for classifiers; see `iqarena.attacks.bridges.library` for how a score becomes one. The classes of
`TorchAttacks` and `PGDL2` only raise a cross-entropy: a head of logits [ℓ, 0] with the soft label [1, −1] makes it exactly
−ℓ, since −(1·log p₀ − 1·log p₁) = −(ℓ − 0). The others have a class of their own here:

    class        head     norms       result on a score                       forwards, backwards by default
    PGDL2        exact    l2          steepest ascent in the ball             10, 10
    APGD         rank     linf, l2    the best of its iterates                12, 11
    Square       rank     linf, l2    the best image, scores only             1001, 0
    SPSA         rank     linf        the last iterate, scores only           2560, 0
    OnePixel     rank     l0          the best few pixels, scores only        about 2000, 0
    Pixle        rank     l0          the best moved pixels, scores only      about 2000, 0
    CW           margin   l2          least ℓ2 norm that moves `amount`       100, 100 at most
    DeepFool     margin   l2          least ℓ2 norm that moves `amount`       50, 100 at most
    FAB          margin   linf, l2    least norm that moves `amount`          23, 20
    EADEN        margin   l2          least ‖δ‖² + β‖δ‖₁ that moves `amount`  1801, 900 at most
    EADL1        margin   l0          least ‖δ‖₁ that moves `amount`          1801, 900 at most

Attacks with the margin head make up to twelve further queries, for the image rounded to 8 bit.
"""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from iqarena.attacks.base import Access, Target
from iqarena.attacks.bridges.library import Head, LeastNorm, LibraryAttack, Losses, margin, rank
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Norm, Threat

_CLASSES = (
    "BIM",
    "DIFGSM",
    "EOTPGD",
    "FFGSM",
    "FGSM",
    "MIFGSM",
    "NIFGSM",
    "PGD",
    "PIFGSM",
    "PIFGSMPP",
    "RFGSM",
    "SINIFGSM",
    "TIFGSM",
    "UPGD",
    "VMIFGSM",
    "VNIFGSM",
)
_SEPARATE = ("APGD", "CW", "DeepFool", "EADEN", "EADL1", "FAB", "OnePixel", "PGDL2", "Pixle", "SPSA", "Square")
_REFUSED = {
    "APGDT": "its loss compares the image's class with one other class after another; with a single other class it is APGD",
    "AutoAttack": "it runs APGD, APGDT, FAB and Square until a class flips; run APGD, FAB and Square by name",
    "GN": "it adds Gaussian noise of a fixed size without queries; random-noise does that inside the ball",
    "JSMA": "it evaluates every pair of values of an image against all classes; a score has no classes, and an image of "
    "512×384 has 3·10¹¹ pairs",
    "Jitter": "it divides the logits by the largest; for a single score that leaves its sign, which has no gradient",
    "LGV": "it trains surrogate classifiers on labelled data for transfer; it does not attack a given score",
    "MultiAttack": "it runs other attacks until a class flips; run those by name",
    "PGDRS": "it attacks the mean class probabilities of a noise-smoothed classifier, another quantity than the score",
    "PGDRSL2": "it attacks the mean class probabilities of a noise-smoothed classifier, another quantity than the score",
    "SparseFool": "it moved resnet-iqa by a fifth of the amount at λ = 1; at λ = 3 it took minutes, and changed 13 "
    "values of a linear model where 3 suffice; EADL1 is sparse too",
    "TPGD": "it raises a divergence from the clean output, which grows whether quality rises or falls, and has no gradient "
    "at the clean image",
    "VANILA": "it returns the clean image",
}
_SIZE_NAMES = {"PIFGSM": "max_epsilon", "PIFGSMPP": "max_epsilon"}
"""Parameter names of classes whose size of the ball is not called `eps`."""
_NORMS = {"linf": "Linf", "l2": "L2"}


class _Linear(nn.Module):
    """The logits [ℓ, 0] of each image."""

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        losses = self.losses(images)
        return torch.stack([losses, torch.zeros_like(losses)], dim=1)


def _library_class(variant: str) -> Callable[..., Any]:
    import torchattacks

    cls: Callable[..., Any] = getattr(torchattacks, variant)
    return cls


@dataclass(frozen=True)
class _ExactAttack(LibraryAttack):
    """Base of the attacks whose every step follows a cross-entropy.

    Attributes:
        parameters: parameters of the constructor, except `eps`; `alpha` defaults to a quarter of the threat's size.
    """

    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        cls = _library_class(self.variant)
        options: dict[str, Any] = {_SIZE_NAMES.get(self.variant, "eps"): threat.size}
        if "alpha" in inspect.signature(cls).parameters:
            # the library's default step is 2/255 for any ball; FFGSM takes a single one, 1.25 times the ball in its paper
            options["alpha"] = 1.25 * threat.size if self.variant == "FFGSM" else threat.size / 4
        attack = cls(_Linear(Losses(target, objective, "gradient")), **(options | self.given))
        attacked: torch.Tensor = attack(images, images.new_tensor([[1.0, -1.0]]).expand(len(images), 2))
        return attacked


@dataclass(frozen=True)
class TorchAttacks(_ExactAttack):
    """An attack of the library; `parameters` are those of its constructor. Draws from torch's global stream, seeded here.

    Attributes:
        variant: name of the class.
        parameters: parameters of its constructor, except `eps`; `alpha` defaults to a quarter of the threat's size.
    """

    name: ClassVar[str] = "torchattacks:"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    paper: ClassVar[str] = "https://arxiv.org/abs/2010.01950"

    variant: str = "PGD"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant in _REFUSED:
            raise ValueError(f"torchattacks:{self.variant} is not offered: {_REFUSED[self.variant]}")
        if self.variant not in _CLASSES:
            offered = ", ".join(sorted(_CLASSES + _SEPARATE))
            raise ValueError(f"torchattacks:{self.variant} is not an available attack; available are {offered}")

    @staticmethod
    def variants() -> tuple[str, ...]:
        """Return the available classes; those that need another head are registered separately."""
        return _CLASSES

    @staticmethod
    def refused() -> dict[str, str]:
        """Return the library's other classes, with the reason why they do not apply to a score."""
        return dict(_REFUSED)


@dataclass(frozen=True)
class PGDL2(_ExactAttack):
    """Projected gradient descent in the ℓ2 ball, from a random start; the last iterate."""

    name: ClassVar[str] = "torchattacks:PGDL2"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1706.06083"

    variant: str = "PGDL2"


class _ClassifierAttack(LibraryAttack):
    """Base of the attacks that take a classifier of two classes."""

    @abstractmethod
    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        """Return the default constructor parameters."""

    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the function of ℓ − ℓ₀ that gives z."""
        return rank

    def call(self, attack: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Run the attack object of the library."""
        attacked: torch.Tensor = attack(images, labels)
        return attacked

    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        cls = _library_class(self.variant)
        options = self.options(threat, images)
        if "seed" in inspect.signature(cls).parameters:
            options["seed"] = seed  # otherwise the library seeds the global stream with 0
        head = Head(Losses(target, objective, self.access), objective, self.z())
        attack = cls(head, **(options | self.given))
        attacked = self.call(attack, images, torch.zeros(len(images), dtype=torch.int64, device=images.device))
        return attacked.detach()


class _LeastNormAttack(_ClassifierAttack, LeastNorm):
    """Base of the least-norm attacks."""

    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return margin(self.amount)


@dataclass(frozen=True)
class APGD(_ClassifierAttack):
    """Auto-PGD: momentum, and a step size that is halved when the loss stalls; returns the best iterate.

    Its cross-entropy over the rank head is an increasing function of −ℓ, and it only uses signs or directions of gradients
    and compares losses, so its trajectory is that of −ℓ itself. It runs in the library's best-loss mode, which does not stop
    at success.
    """

    name: ClassVar[str] = "torchattacks:APGD"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01690"
    set_here: ClassVar[tuple[str, ...]] = ("loss",)

    variant: str = "APGD"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"norm": _NORMS[threat.norm], "eps": threat.size}

    def call(self, attack: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        attacked: torch.Tensor = attack.perturb(images, labels, best_loss=True)[1]
        return attacked


@dataclass(frozen=True)
class Square(_ClassifierAttack):
    """Random search with squares, scores only; all queries are used, since success is never declared."""

    name: ClassVar[str] = "torchattacks:Square"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    min_size: ClassVar[int] = 8
    paper: ClassVar[str] = "https://arxiv.org/abs/1912.00049"
    set_here: ClassVar[tuple[str, ...]] = ("n_restarts", "loss")

    variant: str = "Square"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        height, width = images.shape[2:]
        # the first squares must fit into the shorter side
        largest = (min(height, width) - 2) ** 2 / (height * width)
        return {"norm": _NORMS[threat.norm], "eps": threat.size, "n_queries": 1000, "p_init": min(0.8, largest)}

    def refusal(self, threat: Threat, height: int, width: int) -> str:
        tile = max(height // 5, 1)
        if threat.norm == "l2" and any((height - 5 * tile) // 2 + side // tile * tile > side for side in (height, width)):
            return f"{self.name} cannot tile {width}×{height} for l2"
        return super().refusal(threat, height, width)

    def call(self, attack: Any, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        # `perturb` would return the clean image, as there is no success
        attack.init_hyperparam(images)
        attacked: torch.Tensor = attack.attack_single_run(images, labels)[1]
        return attacked


@dataclass(frozen=True)
class SPSA(_ClassifierAttack):
    """Adam on gradients estimated from scores at random ± perturbations (simultaneous perturbation); the last iterate."""

    name: ClassVar[str] = "torchattacks:SPSA"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1802.05666"

    variant: str = "SPSA"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"eps": threat.size, "lr": threat.size / 4, "delta": threat.size, "nb_iter": 10}


@dataclass(frozen=True)
class OnePixel(_ClassifierAttack):
    """Differential evolution of the positions and colours of up to five pixels, scores only."""

    name: ClassVar[str] = "torchattacks:OnePixel"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1710.08864"

    variant: str = "OnePixel"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"pixels": min(5, threat.pixels(*images.shape[2:])), "popsize": 50, "steps": 40}


@dataclass(frozen=True)
class Pixle(_ClassifierAttack):
    """Random search that moves pixels of the image to other positions and keeps the best result, scores only."""

    name: ClassVar[str] = "torchattacks:Pixle"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)
    paper: ClassVar[str] = "https://arxiv.org/abs/2202.02236"

    variant: str = "Pixle"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        # every round changes the pixels of one rectangle, so that all rounds together stay within the allowed pixels
        pixels = threat.pixels(*images.shape[2:])
        rounds = min(50, pixels)
        side = min(math.isqrt(pixels // rounds), *images.shape[2:])
        sides = (1, side)
        return {"x_dimensions": sides, "y_dimensions": sides, "restarts": rounds, "max_iterations": 1000 // rounds}

    def refusal(self, threat: Threat, height: int, width: int) -> str:
        if abs(height - width) > 1:
            return f"{self.name} takes rows for columns: only square images, not {width}×{height}"
        return super().refusal(threat, height, width)


@dataclass(frozen=True)
class CW(_LeastNormAttack):
    """Carlini and Wagner's ℓ2 attack: Adam on ‖δ‖² + c·max(z, 0) in tanh space; the shortest δ that moves `amount`.

    The library does not search for c. For a linear model the hinge is reached if c is above twice the square of the least
    norm, so c is set to four times the square of the threat's size, which suffices for every perturbation in the ball.
    """

    name: ClassVar[str] = "torchattacks:CW"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1608.04644"

    variant: str = "CW"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        # in tanh space a value moves by at most half a step: an evenly spread perturbation of the threat's size takes ten
        return {"c": 4 * threat.size**2, "lr": 0.2 * threat.size / math.sqrt(images[0].numel()), "steps": 100}


@dataclass(frozen=True)
class DeepFool(_LeastNormAttack):
    """Newton steps onto the linearised boundary, two per cent beyond it: a small perturbation that moves `amount`."""

    name: ClassVar[str] = "torchattacks:DeepFool"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1511.04599"

    variant: str = "DeepFool"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class FAB(_LeastNormAttack):
    """Fast adaptive boundary: projections onto the linearised boundary in the box; least norm that moves `amount`."""

    name: ClassVar[str] = "torchattacks:FAB"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/1907.02044"
    set_here: ClassVar[tuple[str, ...]] = ("multi_targeted", "n_classes")

    variant: str = "FAB"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        # the library drops perturbations longer than eps; here they are projected as for the other least-norm attacks
        return {"norm": _NORMS[threat.norm], "eps": 1.0 if threat.norm == "linf" else math.sqrt(images[0].numel())}


@dataclass(frozen=True)
class EADEN(_LeastNormAttack):
    """Elastic-net attack, elastic-net rule: shrinkage steps; least ‖δ‖² + β‖δ‖₁ that moves quality by `amount`."""

    name: ClassVar[str] = "torchattacks:EADEN"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1709.04114"

    variant: str = "EADEN"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {}


@dataclass(frozen=True)
class EADL1(EADEN):
    """Elastic-net attack, ℓ1 rule: shrinkage steps; least ‖δ‖₁, hence few values, that moves quality by `amount`."""

    name: ClassVar[str] = "torchattacks:EADL1"
    norms: ClassVar[tuple[Norm, ...]] = ("l0",)

    variant: str = "EADL1"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"beta": 0.01}
