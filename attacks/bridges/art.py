"""`art:CLASS`: attacks of the Adversarial Robustness Toolbox (Nicolae et al., arXiv 1807.01069), on a quality model.

The toolbox's ``PyTorchRegressor`` gets the objective's loss ℓ as its prediction and −Σℓ as its training loss, which its
evasion attacks raise. Its own squared error against its own prediction would have no gradient at the clean picture.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from attacks.base import Access, Attack, Generators, Target
from attacks.objective import Objective
from attacks.threat import Threat

_CLASSES = ("BasicIterativeMethod", "FastGradientMethod", "MomentumIterativeMethod", "ProjectedGradientDescent")
_ITERATIVE = frozenset(_CLASSES) - {"FastGradientMethod"}


class _Column(nn.Module):
    """ℓ as (N, 1), in float32 whatever the toolbox feeds."""

    def __init__(self, losses: nn.Module) -> None:
        super().__init__()
        self.losses = losses
        self.anchor = nn.Parameter(torch.zeros(()), requires_grad=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        column: torch.Tensor = self.losses(images.float())[:, None]
        return column


class _NegativeSum(nn.Module):
    """−Σℓ; has the `reduction` that the toolbox expects of a loss."""

    reduction = "sum"

    def forward(self, predictions: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return -predictions.sum()


@dataclass(frozen=True)
class ART(Attack):
    """One evasion attack of the toolbox; `parameters` are those of its constructor.

    Attributes:
        variant: the class.
        parameters: of its constructor, `eps` and `norm` apart; without `eps_step`, a quarter of the threat's size.
    """

    name: ClassVar[str] = "art:"
    access: ClassVar[Access] = "gradient"
    limited: ClassVar[bool] = False
    batches: ClassVar[bool] = False  # its random stream is global
    paper: ClassVar[str] = "https://arxiv.org/abs/1807.01069"

    variant: str = "ProjectedGradientDescent"
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.variant not in _CLASSES:
            raise ValueError(
                f"art:{self.variant} is no evasion attack that ART opens to a regressor; offered are {', '.join(_CLASSES)}"
            )

    @staticmethod
    def variants() -> tuple[str, ...]:
        """The classes on offer."""
        return _CLASSES

    def run(
        self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators
    ) -> torch.Tensor:
        from art.attacks import evasion
        from art.estimators.regression.pytorch import PyTorchRegressor

        regressor = PyTorchRegressor(
            _Column(target.module(objective.loss)), _NegativeSum(), tuple(images.shape[1:]), clip_values=(0.0, 1.0),
            device_type="cpu" if images.device.type == "cpu" else "gpu",
        )  # fmt: skip
        options: dict[str, Any] = {
            "eps": threat.size,
            "norm": np.inf if threat.norm == "linf" else 2,
            "batch_size": len(images),
        }
        if self.variant in _ITERATIVE:
            options |= {"eps_step": threat.size / 4, "verbose": False}
        if self.variant == "BasicIterativeMethod":
            del options["norm"]
        before = np.random.get_state()
        try:
            with torch.random.fork_rng():
                seed = generator.seed()
                torch.manual_seed(seed)
                np.random.seed(seed)
                attack = getattr(evasion, self.variant)(regressor, **(options | self.parameters))
                attacked = attack.generate(images.cpu().numpy(), y=np.zeros((len(images), 1), dtype=np.float32))
        finally:
            np.random.set_state(before)
        return threat.snap(threat.project(torch.from_numpy(attacked).to(images), images), images)
