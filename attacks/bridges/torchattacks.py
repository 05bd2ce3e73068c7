"""`torchattacks:CLASS`: attacks of the torchattacks library (Kim, arXiv 2010.01950), on a quality model.

They are written for classifiers: they take logits and raise a cross-entropy. A head of logits [ℓ, 0], ℓ being the
objective's loss, with the soft label [1, −1] makes their cross-entropy exactly −ℓ, since
−(1·log p₀ − 1·log p₁) = −(ℓ − 0); raising it makes ℓ small. Only classes whose every step follows that loss are offered.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import nn

from attacks.base import Access, Attack, Generators, Target
from attacks.objective import Objective
from attacks.threat import Norm, Threat

_CLASSES = (
    "BIM", "DIFGSM", "EOTPGD", "FFGSM", "FGSM", "MIFGSM", "NIFGSM", "PGD", "PIFGSM", "PIFGSMPP", "RFGSM", "SINIFGSM",
    "TIFGSM", "UPGD", "VMIFGSM", "VNIFGSM",
)  # fmt: skip
_SIZE_NAMES = {"PIFGSM": "max_epsilon", "PIFGSMPP": "max_epsilon"}
"""Classes that call the ball's size something else than `eps`."""


class _Logits(nn.Module):
    """[ℓ, 0] for each picture; has a weight, since the library asks the weights for their device."""

    def __init__(self, losses: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.losses = losses
        self.anchor = nn.Parameter(torch.zeros((), device=device), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        losses = self.losses(images)
        return torch.stack([losses, torch.zeros_like(losses)], dim=1)


@dataclass(frozen=True)
class TorchAttacks(Attack):
    """One class of the library; `parameters` are those of its constructor. Draws from torch's global stream, seeded here.

    Attributes:
        variant: the class.
        parameters: of its constructor, `eps` apart; without `alpha`, a step is a quarter of the threat's size.
    """

    name: ClassVar[str] = "torchattacks:"
    access: ClassVar[Access] = "gradient"
    norms: ClassVar[tuple[Norm, ...]] = ("linf",)
    limited: ClassVar[bool] = False
    batches: ClassVar[bool] = False  # its random stream is global, and pictures must not depend on their batch
    paper: ClassVar[str] = "https://arxiv.org/abs/2010.01950"

    variant: str = "PGD"
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.variant not in _CLASSES:
            raise ValueError(f"torchattacks:{self.variant} cannot follow a score's loss; offered are {', '.join(_CLASSES)}")

    @staticmethod
    def variants() -> tuple[str, ...]:
        """The classes on offer."""
        return _CLASSES

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        import torchattacks

        logits = _Logits(target.module(objective.loss), images.device)
        with torch.random.fork_rng():
            torch.manual_seed(generator.seed())
            made = getattr(torchattacks, self.variant)
            options: dict[str, Any] = {_SIZE_NAMES.get(self.variant, "eps"): threat.size}
            if "alpha" in inspect.signature(made).parameters:
                # the library's own step is 2/255 whatever the ball; FFGSM makes but one, of 1.25 balls in its paper
                options["alpha"] = 1.25 * threat.size if self.variant == "FFGSM" else threat.size / 4
            attack = made(logits, **(options | self.parameters))
            attacked: torch.Tensor = attack(images, images.new_tensor([[1.0, -1.0]]).expand(len(images), 2))
        return threat.snap(threat.project(attacked, images), images)
