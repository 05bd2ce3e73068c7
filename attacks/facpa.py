"""`facpa`: fast adversarial CNN-based perturbation attack.

Shumitskaya, Antsiferova, Vatolin, ICLR Tiny Papers 2023, arXiv 2305.15544.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, get_args

import torch
from torch.func import functional_call

from iqarena.attacks.base import Generators, Target
from iqarena.attacks.fitted import Fit, FittedAttack
from iqarena.attacks.objective import Kind, Objective
from iqarena.attacks.threat import Threat
from iqarena.attacks.unet import UNet, seeded
from iqarena.attacks.universal import backpropagate, filling, minibatches


@dataclass(frozen=True)
class FACPA(FittedAttack):
    """A U-Net that maps the image to its perturbation, ε · tanh; as it sees the image, it supports every objective.

    Attributes:
        epochs: passes over the images it is fitted on.
        batch: images per step.
        width: channels of the outermost level of the network, a multiple of 4.
        learning_rate: initial learning rate of Adam; it falls linearly to 0.
    """

    name: ClassVar[str] = "facpa"
    objectives: ClassVar[tuple[Kind, ...]] = get_args(Kind)
    paper: ClassVar[str] = "https://arxiv.org/abs/2305.15544"

    epochs: int = 60
    batch: int = 2
    width: int = 32
    learning_rate: float = 0.005

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1:
            raise ValueError(f"{self.name}: epochs and batch must be at least 1")
        if self.width < 4 or self.width % 4 or not self.learning_rate > 0:
            raise ValueError(f"{self.name}: width must be a multiple of 4 and learning_rate above 0")

    def fit(self, target: Target, images: torch.Tensor, objective: Objective, threat: Threat, generator: Generators) -> Fit:
        network = seeded(self.width, generator).to(images.device)
        adam = torch.optim.Adam(network.parameters())
        for index, rate in minibatches(len(images), self.batch, self.epochs, generator):
            adam.zero_grad()
            backpropagate(
                target.part(index), images[index], objective.part(index), threat, lambda part: filling(network(part), threat)
            )
            adam.param_groups[0]["lr"] = self.learning_rate * rate
            adam.step()
        return network.state_dict()

    def shift(self, fit: Fit, images: torch.Tensor, objective: Objective, threat: Threat) -> torch.Tensor:
        with torch.device("meta"):  # the weights come from the fit, so none are initialised
            network = UNet(self.width)
        weights = {name: value.to(images) for name, value in fit.items()}
        with torch.no_grad():
            # one by one, so that the result is bitwise independent of the batch
            return torch.cat([filling(functional_call(network, weights, (image[None],)), threat) for image in images])
