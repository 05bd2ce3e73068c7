"""`art:CLASS`: attacks of the Adversarial Robustness Toolbox (Nicolae et al., arXiv 1807.01069), on a quality model.

The classes of `ART` take a regressor: the prediction of the toolbox's ``PyTorchRegressor`` is the objective's loss ℓ, and
its training loss, which the evasion attacks raise, is −Σℓ. (The squared error against its own prediction has no gradient at
the clean image.) The other attacks are classes of their own here; see `iqarena.attacks.bridges.library` for the heads:

    class                            head    norms      result on a score                      forwards, backwards by default
    AutoProjectedGradientDescent     gain    linf, l2   ascent in the ball, the last iterate   204, 100
    AutoConjugateGradient            gain    l2         ascent in the ball, the last iterate   204, 100
    RescalingAutoConjugateGradient   gain    l2         ascent in the ball, the last iterate   204, 100
    SquareAttack                     ℓ       linf       the best image, scores only            903, 0
    SimBA                            rank    linf, l2   the best value by value, scores only   1001, 0
    DeepFool                         margin  l2         least ℓ2 norm that moves `amount`      42, 42 at most
    NewtonFool                       margin  l2         least ℓ2 norm that moves `amount`      21, 10
    CarliniL2Method                  margin  l2         least ℓ2 norm that moves `amount`      about 520, 160
    CarliniLInfMethod                margin  linf       least ℓ∞ norm that moves `amount`      some hundreds
    ElasticNet                       margin  l2         least ‖δ‖² + β‖δ‖₁, moves `amount`     602, 300
    HopSkipJump                      margin  linf, l2   least norm, by decisions only          about 2400, 0
    BoundaryAttack                   margin  l2         least ℓ2 norm, by decisions only       about 2900, 0
    SignOPTAttack                    margin  l2         least ℓ2 norm, by decisions only       about 2100, 0

Attacks with the margin head make up to twelve further queries, for the image rounded to 8 bit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch.nn import functional

from iqarena.attacks.base import Access, Target
from iqarena.attacks.bridges.art_bases import (
    ClassifierAttack,
    DecisionAttack,
    LeastNormAttack,
    RegressorAttack,
    norm_order,
    to_numpy,
)
from iqarena.attacks.bridges.art_refused import REFUSED
from iqarena.attacks.bridges.library import gain, rank
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Norm, Threat

_CLASSES = ("BasicIterativeMethod", "FastGradientMethod", "MomentumIterativeMethod", "ProjectedGradientDescent")
_ITERATIVE = frozenset(_CLASSES) - {"FastGradientMethod"}
_SEPARATE = (
    "AutoConjugateGradient",
    "AutoProjectedGradientDescent",
    "BoundaryAttack",
    "CarliniL2Method",
    "CarliniLInfMethod",
    "DeepFool",
    "ElasticNet",
    "HopSkipJump",
    "NewtonFool",
    "RescalingAutoConjugateGradient",
    "SignOPTAttack",
    "SimBA",
    "SquareAttack",
)


@dataclass(frozen=True)
class ART(RegressorAttack):
    """An evasion attack of the toolbox; `parameters` are those of its constructor.

    Attributes:
        variant: name of the class.
        parameters: parameters of its constructor, except `eps` and `norm`; `eps_step` defaults to a quarter of the threat's
            size.
    """

    name: ClassVar[str] = "art:"
    paper: ClassVar[str] = "https://arxiv.org/abs/1807.01069"

    variant: str = "ProjectedGradientDescent"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant in REFUSED:
            raise ValueError(f"art:{self.variant} is not offered: {REFUSED[self.variant]}")
        if self.variant not in _CLASSES:
            offered = ", ".join(sorted(_CLASSES + _SEPARATE))
            raise ValueError(f"art:{self.variant} is not an available attack; available are {offered}")

    @staticmethod
    def variants() -> tuple[str, ...]:
        """Return the available classes; those that need another head are registered separately."""
        return _CLASSES

    @staticmethod
    def refused() -> dict[str, str]:
        """Return the toolbox's other evasion attacks, with the reason why they do not apply to a score."""
        return dict(REFUSED)

    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        from art.attacks import evasion

        options: dict[str, Any] = {"eps": threat.size, "norm": norm_order(threat), "batch_size": len(images)}
        if self.variant in _ITERATIVE:
            options |= {"eps_step": threat.size / 4, "verbose": False}
        if self.variant == "BasicIterativeMethod":
            del options["norm"]
        attack = getattr(evasion, self.variant)(self.regressor(target, images, objective), **(options | self.given))
        return torch.from_numpy(attack.generate(to_numpy(images), y=np.zeros((len(images), 1), dtype=np.float32)))


@dataclass(frozen=True)
class SquareAttack(RegressorAttack):
    """Random search with squares, scores only; three forward passes per iteration, and all iterations are used."""

    name: ClassVar[str] = "art:SquareAttack"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    min_size: ClassVar[int] = 4
    paper: ClassVar[str] = "https://arxiv.org/abs/1912.00049"

    variant: str = "SquareAttack"

    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        from art.attacks import evasion

        regressor = self.regressor(target, images, objective)
        height, width = images.shape[2:]
        largest = (min(height, width) - 1.6) ** 2 / (height * width)  # after rounding, less than the shorter side
        options = {"eps": threat.size, "max_iter": 300, "p_init": min(0.8, largest), "verbose": False}
        attack = evasion.SquareAttack(
            regressor,
            norm=np.inf,
            adv_criterion=lambda predictions, labels: np.zeros(len(predictions), dtype=bool),
            loss=lambda batch, labels: regressor.predict(batch)[:, 0],
            **(options | self.given),
        )
        return torch.from_numpy(attack.generate(to_numpy(images), y=np.zeros((len(images), 1), dtype=np.float32)))


@dataclass(frozen=True)
class AutoProjectedGradientDescent(ClassifierAttack):
    """Auto-PGD: momentum, and a step size that is halved when the loss stalls; the last iterate, if it improved."""

    name: ClassVar[str] = "art:AutoProjectedGradientDescent"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01690"

    variant: str = "AutoProjectedGradientDescent"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"eps": threat.size, "eps_step": 2 * threat.size, "norm": norm_order(threat), "nb_random_init": 1}

    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return gain


@dataclass(frozen=True)
class AutoConjugateGradient(AutoProjectedGradientDescent):
    """Auto conjugate gradient: Auto-PGD's steps along conjugate directions; the last iterate, if it improved."""

    name: ClassVar[str] = "art:AutoConjugateGradient"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)  # for linf the library omits the sign, and the attack hardly moves
    paper: ClassVar[str] = "https://arxiv.org/abs/2206.09628"

    variant: str = "AutoConjugateGradient"


@dataclass(frozen=True)
class RescalingAutoConjugateGradient(AutoProjectedGradientDescent):
    """Rescaling auto conjugate gradient: conjugate directions of limited weight; the last iterate, if it improved."""

    name: ClassVar[str] = "art:RescalingAutoConjugateGradient"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)  # for linf the library omits the sign, and the attack hardly moves
    paper: ClassVar[str] = "https://arxiv.org/abs/2206.09628"

    variant: str = "RescalingAutoConjugateGradient"


@dataclass(frozen=True)
class SimBA(ClassifierAttack):
    """Changes one value after another by ±ε in random order, kept if the score improves; scores only."""

    name: ClassVar[str] = "art:SimBA"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    min_size: ClassVar[int] = 4
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.07121"

    variant: str = "SimBA"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        # no value twice, and for l2 inside the ball even if all of them change
        steps = min(self.given.get("max_iter", 500), images[0].numel())
        step = threat.size if threat.norm == "linf" else threat.size / steps**0.5
        return {"attack": "px", "max_iter": steps, "epsilon": step}

    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return rank

    def transform(self, logits: torch.Tensor) -> torch.Tensor:
        return 0.5 + logits / 2  # the attack expects probabilities; z is in (0, 2)


@dataclass(frozen=True)
class DeepFool(LeastNormAttack):
    """Newton steps onto the linearised boundary: a small perturbation that moves quality by `amount`."""

    name: ClassVar[str] = "art:DeepFool"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1511.04599"

    variant: str = "DeepFool"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"max_iter": 20}


@dataclass(frozen=True)
class NewtonFool(LeastNormAttack):
    """Newton steps that lower the probability of the image's class, here (1 + z)/2, to a half; moves quality by `amount`."""

    name: ClassVar[str] = "art:NewtonFool"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://doi.org/10.1145/3134600.3134635"

    variant: str = "NewtonFool"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"max_iter": 10}

    def transform(self, logits: torch.Tensor) -> torch.Tensor:
        return 0.5 + logits


@dataclass(frozen=True)
class CarliniL2Method(LeastNormAttack):
    """Carlini and Wagner's ℓ2 attack, with their search for the constant; least ℓ2 norm that moves quality by `amount`."""

    name: ClassVar[str] = "art:CarliniL2Method"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1608.04644"

    variant: str = "CarliniL2Method"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        # for a linear model, the least constant that reaches the boundary is twice the square of the least norm
        return {"initial_const": 2 * threat.size**2, "binary_search_steps": 8}


@dataclass(frozen=True)
class CarliniLInfMethod(LeastNormAttack):
    """Carlini and Wagner's ℓ∞ attack: Adam under a bound that is lowered while it succeeds; moves quality by `amount`."""

    name: ClassVar[str] = "art:CarliniLInfMethod"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1608.04644"

    variant: str = "CarliniLInfMethod"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"learning_rate": threat.size / 8, "max_iter": 30, "initial_const": 1.0, "const_factor": 10.0}


@dataclass(frozen=True)
class ElasticNet(LeastNormAttack):
    """Elastic-net attack: shrinkage steps; least ‖δ‖² + β‖δ‖₁ that moves quality by `amount`."""

    name: ClassVar[str] = "art:ElasticNet"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1709.04114"

    variant: str = "ElasticNet"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"initial_const": 2 * threat.size**2, "binary_search_steps": 5, "max_iter": 30}


@dataclass(frozen=True)
class HopSkipJump(DecisionAttack):
    """Steps along the boundary by estimated normals, decisions only; a small perturbation that moves quality by `amount`."""

    name: ClassVar[str] = "art:HopSkipJump"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/1904.02144"

    variant: str = "HopSkipJump"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"norm": norm_order(threat), "max_iter": 10}


@dataclass(frozen=True)
class BoundaryAttack(DecisionAttack):
    """Random steps along the boundary, decisions only; a small perturbation that moves quality by `amount`."""

    name: ClassVar[str] = "art:BoundaryAttack"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1712.04248"

    variant: str = "BoundaryAttack"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"targeted": False, "max_iter": 100}


@dataclass(frozen=True)
class SignOPTAttack(LeastNormAttack):
    """Descent on the distance to the boundary over directions, decisions only; it always starts from Gaussian noise."""

    name: ClassVar[str] = "art:SignOPTAttack"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1909.10773"

    variant: str = "SignOPTAttack"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"targeted": False, "query_limit": 2000}

    def transform(self, logits: torch.Tensor) -> torch.Tensor:
        return functional.pad(logits, (0, 1), value=-1e3)  # the attack does not accept two classes; the third one never wins
