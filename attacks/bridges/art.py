"""`art:CLASS`: attacks of the Adversarial Robustness Toolbox (Nicolae et al., arXiv 1807.01069), on a quality model.

The classes of `ART` take a regressor: the toolbox's ``PyTorchRegressor`` gets the objective's loss ℓ as its prediction and
−Σℓ as its training loss, which its evasion attacks raise. Its own squared error against its own prediction would have no
gradient at the clean image. The others have a class of their own here; see `iqarena.attacks.bridges.library` for the heads:

    class                            head    norms      what it finds on a score               forwards, backwards by default
    AutoProjectedGradientDescent     gain    linf, l2   ascent in the ball, the last iterate   204, 100
    AutoConjugateGradient            gain    l2         ascent in the ball, the last iterate   204, 100
    RescalingAutoConjugateGradient   gain    l2         ascent in the ball, the last iterate   204, 100
    SquareAttack                     ℓ       linf       the best image, scores only          903, 0
    SimBA                            rank    linf, l2   the best value by value, scores only   1001, 0
    DeepFool                         margin  l2         least ℓ2 norm that moves `amount`      42, 42 at most
    NewtonFool                       margin  l2         least ℓ2 norm that moves `amount`      21, 10
    CarliniL2Method                  margin  l2         least ℓ2 norm that moves `amount`      about 520, 160
    CarliniLInfMethod                margin  linf       least ℓ∞ norm that moves `amount`      some hundreds
    ElasticNet                       margin  l2         least ‖δ‖² + β‖δ‖₁, moves `amount`     602, 300
    HopSkipJump                      margin  linf, l2   least norm, by decisions only          about 2400, 0
    BoundaryAttack                   margin  l2         least ℓ2 norm, by decisions only       about 2900, 0
    SignOPTAttack                    margin  l2         least ℓ2 norm, by decisions only       about 2100, 0

Those with the margin head ask up to twelve times more, for the image as it is stored.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from iqarena.attacks.base import Access, Target
from iqarena.attacks.bridges.art_refused import REFUSED
from iqarena.attacks.bridges.library import Head, LeastNorm, LibraryAttack, Losses, gain, margin, rank
from iqarena.attacks.objective import Objective
from iqarena.attacks.threat import Norm, Threat

_CLASSES = ("BasicIterativeMethod", "FastGradientMethod", "MomentumIterativeMethod", "ProjectedGradientDescent")
_ITERATIVE = frozenset(_CLASSES) - {"FastGradientMethod"}
_OWN = (
    "AutoConjugateGradient", "AutoProjectedGradientDescent", "BoundaryAttack", "CarliniL2Method", "CarliniLInfMethod",
    "DeepFool", "ElasticNet", "HopSkipJump", "NewtonFool", "RescalingAutoConjugateGradient", "SignOPTAttack", "SimBA",
    "SquareAttack",
)  # fmt: skip
_STARTS = 100
"""Random images among which a decision-based attack seeks one to start from."""


class _Column(nn.Module):
    """ℓ as (N, 1), in float32 whatever the toolbox feeds."""

    def __init__(self, losses: Losses) -> None:
        super().__init__()
        self.losses = losses

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        column: torch.Tensor = self.losses(images)[:, None]
        return column


class _NegativeSum(nn.Module):
    """−Σℓ; has the `reduction` that the toolbox expects of a loss."""

    reduction = "sum"

    def forward(self, predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -predictions.sum()


class _NegativeZ(nn.Module):
    """−z of logits [z/2, −z/2]."""

    reduction = "sum"

    def forward(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = -2 * logits[:, 0]
        return losses if self.reduction == "none" else losses.sum()


def _numpy(images: torch.Tensor) -> np.ndarray:
    array: np.ndarray = images.cpu().numpy()
    return array


def _order(threat: Threat) -> float:
    return np.inf if threat.norm == "linf" else 2


class _OfRegressor(LibraryAttack):
    """Base of the classes that take a regressor."""

    set_here: ClassVar[tuple[str, ...]] = ("batch_size", "adv_criterion", "loss")

    def regressor(self, target: Target, images: torch.Tensor, objective: Objective) -> Any:
        """The toolbox's view of the model."""
        from art.estimators.regression.pytorch import PyTorchRegressor

        column = _Column(Losses(target, objective, self.access))
        return PyTorchRegressor(
            column, _NegativeSum(), tuple(images.shape[1:]), clip_values=(0.0, 1.0),
            device_type="cpu" if images.device.type == "cpu" else "gpu",
        )  # fmt: skip


@dataclass(frozen=True)
class ART(_OfRegressor):
    """One evasion attack of the toolbox; `parameters` are those of its constructor.

    Attributes:
        variant: the class.
        parameters: of its constructor, `eps` and `norm` apart; without `eps_step`, a quarter of the threat's size.
    """

    name: ClassVar[str] = "art:"
    paper: ClassVar[str] = "https://arxiv.org/abs/1807.01069"

    variant: str = "ProjectedGradientDescent"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variant in REFUSED:
            raise ValueError(f"art:{self.variant} is not offered: {REFUSED[self.variant]}")
        if self.variant not in _CLASSES:
            offered = ", ".join(sorted(_CLASSES + _OWN))
            raise ValueError(f"art:{self.variant} is no attack that is offered; offered are {offered}")

    @staticmethod
    def variants() -> tuple[str, ...]:
        """The classes on offer here; those that need another head are registered by themselves."""
        return _CLASSES

    @staticmethod
    def refused() -> dict[str, str]:
        """The toolbox's other evasion attacks, and why they are of no use on a score."""
        return dict(REFUSED)

    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        from art.attacks import evasion

        options: dict[str, Any] = {"eps": threat.size, "norm": _order(threat), "batch_size": len(images)}
        if self.variant in _ITERATIVE:
            options |= {"eps_step": threat.size / 4, "verbose": False}
        if self.variant == "BasicIterativeMethod":
            del options["norm"]
        attack = getattr(evasion, self.variant)(self.regressor(target, images, objective), **(options | self.given))
        return torch.from_numpy(attack.generate(_numpy(images), y=np.zeros((len(images), 1), dtype=np.float32)))


@dataclass(frozen=True)
class SquareAttack(_OfRegressor):
    """Random search with squares, scores only; three forwards an iteration, all of which are used."""

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
        largest = (min(height, width) - 1.6) ** 2 / (height * width)  # rounded, it must be below the shorter side
        options = {"eps": threat.size, "max_iter": 300, "p_init": min(0.8, largest), "verbose": False}
        attack = evasion.SquareAttack(
            regressor, norm=np.inf, adv_criterion=lambda predictions, labels: np.zeros(len(predictions), dtype=bool),
            loss=lambda batch, labels: regressor.predict(batch)[:, 0], **(options | self.given),
        )  # fmt: skip
        return torch.from_numpy(attack.generate(_numpy(images), y=np.zeros((len(images), 1), dtype=np.float32)))


class _Headed(LibraryAttack):
    """Base of the classes that see a classifier."""

    set_here: ClassVar[tuple[str, ...]] = ("batch_size", "loss_type")

    @abstractmethod
    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        """Constructor parameters where none are given."""

    @abstractmethod
    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """What becomes of ℓ − ℓ₀."""

    def last(self, logits: torch.Tensor) -> torch.Tensor:
        """What the class wants of the logits [z/2, −z/2]."""
        return logits

    def start(self, losses: Losses, images: torch.Tensor, objective: Objective) -> dict[str, Any] | None:
        """What else `generate` wants; None where there is nothing to start from."""
        return {}

    def craft(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, seed: int) -> torch.Tensor:
        from art.attacks import evasion
        from art.estimators.classification import PyTorchClassifier

        losses = Losses(target, objective, self.access)
        more = self.start(losses, images, objective)
        if more is None:
            return images
        head = Head(losses, objective, self.z(), self.last)
        classes = self.last(images.new_zeros(1, 2)).shape[1]
        classifier = PyTorchClassifier(
            head, _NegativeZ(), tuple(images.shape[1:]), classes, clip_values=(0.0, 1.0),
            device_type="cpu" if images.device.type == "cpu" else "gpu",
        )  # fmt: skip
        attack = getattr(evasion, self.variant)(
            classifier, **(self.options(threat, images) | {"verbose": False} | self.given)
        )
        labels = np.zeros((len(images), classes), dtype=np.float32)
        labels[:, 0] = 1
        return torch.from_numpy(attack.generate(_numpy(images), y=labels, **more))


class _LeastNorm(_Headed, LeastNorm):
    """Base of the least-norm classes."""

    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return margin(self.amount)


@dataclass(frozen=True)
class AutoProjectedGradientDescent(_Headed):
    """Auto-PGD: momentum, and steps that are halved where the loss no longer grows; the last iterate, if it gained."""

    name: ClassVar[str] = "art:AutoProjectedGradientDescent"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/2003.01690"

    variant: str = "AutoProjectedGradientDescent"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"eps": threat.size, "eps_step": 2 * threat.size, "norm": _order(threat), "nb_random_init": 1}

    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return gain


@dataclass(frozen=True)
class AutoConjugateGradient(AutoProjectedGradientDescent):
    """Auto conjugate gradient: Auto-PGD's steps along conjugate directions; the last iterate, if it gained."""

    name: ClassVar[str] = "art:AutoConjugateGradient"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)  # for linf it forgets to take the sign, and hardly moves
    paper: ClassVar[str] = "https://arxiv.org/abs/2206.09628"

    variant: str = "AutoConjugateGradient"


@dataclass(frozen=True)
class RescalingAutoConjugateGradient(AutoProjectedGradientDescent):
    """Rescaling auto conjugate gradient: conjugate directions whose share is kept small; the last iterate, if it gained."""

    name: ClassVar[str] = "art:RescalingAutoConjugateGradient"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)  # for linf it forgets to take the sign, and hardly moves
    paper: ClassVar[str] = "https://arxiv.org/abs/2206.09628"

    variant: str = "RescalingAutoConjugateGradient"


@dataclass(frozen=True)
class SimBA(_Headed):
    """Moves one value after another by ±ε in random order, where the score improves; scores only."""

    name: ClassVar[str] = "art:SimBA"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    min_size: ClassVar[int] = 4
    paper: ClassVar[str] = "https://arxiv.org/abs/1905.07121"

    variant: str = "SimBA"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        # no value twice, and for l2 no further than the ball if every one of them moves
        steps = min(self.given.get("max_iter", 500), images[0].numel())
        step = threat.size if threat.norm == "linf" else threat.size / steps**0.5
        return {"attack": "px", "max_iter": steps, "epsilon": step}

    def z(self) -> Callable[[torch.Tensor], torch.Tensor]:
        return rank

    def last(self, logits: torch.Tensor) -> torch.Tensor:
        return 0.5 + logits / 2  # it wants probabilities; z is in (0, 2)


@dataclass(frozen=True)
class DeepFool(_LeastNorm):
    """Newton steps onto the linearised boundary: a short way to move quality by `amount`."""

    name: ClassVar[str] = "art:DeepFool"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1511.04599"

    variant: str = "DeepFool"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"max_iter": 20}


@dataclass(frozen=True)
class NewtonFool(_LeastNorm):
    """Newton steps that lower the probability of the image's class, here (1 + z)/2, to a half; moves `amount`."""

    name: ClassVar[str] = "art:NewtonFool"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://doi.org/10.1145/3134600.3134635"

    variant: str = "NewtonFool"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"max_iter": 10}

    def last(self, logits: torch.Tensor) -> torch.Tensor:
        return 0.5 + logits


@dataclass(frozen=True)
class CarliniL2Method(_LeastNorm):
    """Carlini and Wagner's ℓ2 attack, with their search for the constant; least ℓ2 norm that moves `amount`."""

    name: ClassVar[str] = "art:CarliniL2Method"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1608.04644"

    variant: str = "CarliniL2Method"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        # without curvature the least constant that reaches the boundary is twice the square of the least norm
        return {"initial_const": 2 * threat.size**2, "binary_search_steps": 8}


@dataclass(frozen=True)
class CarliniLInfMethod(_LeastNorm):
    """Carlini and Wagner's ℓ∞ attack: Adam under a ceiling that is lowered as long as it succeeds; moves `amount`."""

    name: ClassVar[str] = "art:CarliniLInfMethod"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1608.04644"

    variant: str = "CarliniLInfMethod"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"learning_rate": threat.size / 8, "max_iter": 30, "initial_const": 1.0, "const_factor": 10.0}


@dataclass(frozen=True)
class ElasticNet(_LeastNorm):
    """Elastic-net attack: shrinkage steps; least ‖δ‖² + β‖δ‖₁ that moves `amount`."""

    name: ClassVar[str] = "art:ElasticNet"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1709.04114"

    variant: str = "ElasticNet"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"initial_const": 2 * threat.size**2, "binary_search_steps": 5, "max_iter": 30}


class _Decision(_LeastNorm):
    """Base of the classes that start from an image that has moved, and only hear whether another one has."""

    access: ClassVar[Access] = "score"

    def start(self, losses: Losses, images: torch.Tensor, objective: Objective) -> dict[str, Any] | None:
        # the library's own search has a random stream of its own, and only tries noise, which hardly raises quality
        wanted = objective.loss(objective.clean) - self.amount
        for image in _somewhere(images):
            if (losses(image) < wanted).all():
                return {"x_adv_init": _numpy(image)}
        return None


def _somewhere(images: torch.Tensor) -> Iterator[torch.Tensor]:
    """Images among which one of quite another quality may be: sharpened and blurred ones, flat ones, noise."""
    blurred = functional.avg_pool2d(images, 3, stride=1, padding=1, count_include_pad=False)
    for share in (1.0, 4.0, 16.0, -1.0):
        yield (images + share * (images - blurred)).clamp(0, 1)
    yield images.mean(dim=(2, 3), keepdim=True).expand_as(images)
    for _ in range(_STARTS):
        yield torch.rand(images.shape).to(images)


@dataclass(frozen=True)
class HopSkipJump(_Decision):
    """Walks along the boundary by estimated normals, decisions only; a short way to move quality by `amount`."""

    name: ClassVar[str] = "art:HopSkipJump"
    norms: ClassVar[tuple[Norm, ...]] = ("linf", "l2")
    paper: ClassVar[str] = "https://arxiv.org/abs/1904.02144"

    variant: str = "HopSkipJump"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"norm": _order(threat), "max_iter": 10}


@dataclass(frozen=True)
class BoundaryAttack(_Decision):
    """Walks along the boundary at random, decisions only; a short way to move quality by `amount`."""

    name: ClassVar[str] = "art:BoundaryAttack"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1712.04248"

    variant: str = "BoundaryAttack"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"targeted": False, "max_iter": 100}


@dataclass(frozen=True)
class SignOPTAttack(_LeastNorm):
    """Descends the distance to the boundary over directions, decisions only; it starts from Gaussian noise alone."""

    name: ClassVar[str] = "art:SignOPTAttack"
    access: ClassVar[Access] = "score"
    norms: ClassVar[tuple[Norm, ...]] = ("l2",)
    paper: ClassVar[str] = "https://arxiv.org/abs/1909.10773"

    variant: str = "SignOPTAttack"

    def options(self, threat: Threat, images: torch.Tensor) -> dict[str, Any]:
        return {"targeted": False, "query_limit": 2000}

    def last(self, logits: torch.Tensor) -> torch.Tensor:
        return functional.pad(logits, (0, 1), value=-1e3)  # it takes no two classes; the third one never wins
