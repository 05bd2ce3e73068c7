"""`adversarial-training-label`: adversarial training with lower labels for attacked images (Chistyakova et al., 2024).

The published recipe attacks with one sign step of 1.25 ε from a random start (or with two steps of APGD), at 2 to 10/255.
Here the inner attack is that of `adversarial-training`, so that the two recipes differ in the labels only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.nn import functional

from iqarena.defenses.training.adversarial import AdversarialTraining

_LUMA = (0.299, 0.587, 0.114)
_WINDOW, _SIGMA = 11, 1.5


def similarity(images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Compute SSIM (Wang et al., TIP 2004) of the luma, (N,), in float32; images (N, 3, H, W) in [0, 1], at least 11×11."""
    at = torch.arange(_WINDOW, device=images.device) - _WINDOW // 2
    window = torch.softmax(-(at**2) / (2 * _SIGMA**2), dim=0)
    luma = images.new_tensor(_LUMA).view(1, 3, 1, 1)
    with torch.autocast(images.device.type, enabled=False):
        x, y = ((batch.float() * luma).sum(1, keepdim=True) for batch in (images, clean))
        maps = torch.cat([x, y, x * x, y * y, x * y], dim=1)
        for shape in ((1, 1, 1, -1), (1, 1, -1, 1)):
            maps = functional.conv2d(maps, window.view(shape).repeat(5, 1, 1, 1), groups=5)
    mean_x, mean_y, square_x, square_y, product = maps.unbind(1)
    brightness = (2 * mean_x * mean_y + 1e-4) / (mean_x**2 + mean_y**2 + 1e-4)
    structure = (2 * (product - mean_x * mean_y) + 9e-4) / (square_x - mean_x**2 + square_y - mean_y**2 + 9e-4)
    return (brightness * structure).mean(dim=(1, 2))


@dataclass(frozen=True)
class AdversarialTrainingLabel(AdversarialTraining):
    """`adversarial-training` with the label of an attacked image lowered by penalty · (1 − SSIM to the clean image).

    Attributes:
        penalty: reduction of the label at SSIM 0; labels do not fall below 0.
    """

    name: ClassVar[str] = "adversarial-training-label"
    paper: ClassVar[str] = "https://doi.org/10.3390/technologies12110220"

    penalty: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        self.refuse_negative(penalty=self.penalty)

    def attacked_label(self, labels: torch.Tensor, attacked: torch.Tensor, images: torch.Tensor) -> torch.Tensor:
        """Compute max(0, y − penalty · (1 − SSIM)), (N,)."""
        return (labels - self.penalty * (1 - similarity(attacked, images))).clamp(min=0)
