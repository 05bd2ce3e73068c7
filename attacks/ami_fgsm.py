"""`ami-fgsm`: the momentum attack on quality models of Sang et al. (The Visual Computer), without its adaptive radius.

The published attack is MI-FGSM with a radius per image, 1/NIQE of the image. Here the threat model fixes the radius, so
what remains is the variant that the MSU benchmark (AAAI 2024, arXiv 2310.06958) runs under this name at a fixed radius:
steps of a tenth of it along a momentum of gradients that are not normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.mi_fgsm import MIFGSM
from iqarena.attacks.threat import Norm


@dataclass(frozen=True)
class AMIFGSM(MIFGSM):
    """`mi-fgsm` with steps of a tenth of the ball and gradients that are not normalised; no radius per image by NIQE.

    Attributes:
        decay: fraction of the momentum that is kept at each step, at least 0.
    """

    name: ClassVar[str] = "ami-fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/2310.06958 (as run there; Sang et al. adapt the radius)"

    step_size: float = 0.1

    def scaled(self, gradient: torch.Tensor, norm: Norm) -> torch.Tensor:
        return gradient
