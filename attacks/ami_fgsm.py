"""`ami-fgsm`: the momentum attack on quality models of Sang et al. (The Visual Computer), without its adaptive radius.

The attack is MI-FGSM whose radius each image sets itself, as 1/NIQE of the image. A threat model here says how far
every image may be moved, so no radius is left to adapt: what remains is what the MSU benchmark (AAAI 2024, arXiv
2310.06958) runs under this name at a fixed radius, steps of a tenth of it along a momentum of gradients as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.mi_fgsm import MIFGSM
from iqarena.attacks.threat import Norm


@dataclass(frozen=True)
class AMIFGSM(MIFGSM):
    """`mi-fgsm` with steps of a tenth of the ball and gradients summed as they are; no radius by NIQE, as the ball is given.

    Attributes:
        decay: share of the momentum that each step keeps, at least 0.
    """

    name: ClassVar[str] = "ami-fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2310.06958 (as run there; Sang et al. adapt the radius)"

    step_size: float = 0.1

    def scaled(self, gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
        return gradient
