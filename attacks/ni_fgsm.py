"""`ni-fgsm`: Nesterov iterative FGSM (Lin et al., ICLR 2020, arXiv 1908.06281)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.attacks.descent import Memory
from iqarena.attacks.mi_fgsm import MIFGSM
from iqarena.attacks.threat import Ball


@dataclass(frozen=True)
class NIFGSM(MIFGSM):
    """`mi-fgsm` with the gradient taken at the look-ahead point x − step·decay·v, where the momentum alone would lead.

    The look-ahead point is projected into the ball, so that it is also a candidate for the result.

    Attributes:
        decay: fraction of the momentum that is kept at each step, at least 0; 0 is `i-fgsm`.
    """

    name: ClassVar[str] = "ni-fgsm"
    paper: ClassVar[str] = "https://arxiv.org/abs/1908.06281"

    def outlook(self, attacked: torch.Tensor, ball: Ball, memory: Memory) -> torch.Tensor:
        if "velocity" not in memory:
            return attacked
        return ball.project(attacked.sub(memory["velocity"], alpha=self.step_size * ball.threat.size * self.decay))
