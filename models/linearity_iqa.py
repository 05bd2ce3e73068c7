"""`linearity-iqa`: training for a linear relation to the labels (Li, Jiang, Jiang, ACM MM 2020, arXiv 2008.03889)."""

from __future__ import annotations

import torch
from torch import nn

from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.imagenet import OnImageNet, normalized
from iqarena.models.resnet import SHAPES, ResNet

STREAM_WEIGHT = 0.1
"""Weight of the loss of each stage's own prediction, relative to that of both together."""

MOMENTUM = 0.01
"""Momentum of the statistics to which the line from predictions to labels is fitted."""


class LinearityIQA(OnImageNet, QualityModel):
    """The third and the fourth stage of ResNeXt-101, each mean-pooled and reduced to 64 features, and a linear layer.

    The norm-in-norm loss is invariant to scale and offset; a line fitted by least squares to the predictions and labels of
    the last hundreds of batches maps predictions to the scale of the labels. Raw score in about [0, 1]. Any image of at
    least 32×32 pixels; 90.5 M parameters, not shipped.
    """

    info = ModelInfo("linearity-iqa", licence="MIT", paper="https://arxiv.org/abs/2008.03889")
    weights_wanted = "a file from `iqarena train -m linearity-iqa --backbone imagenet`"
    imagenet = "resnext101_32x8d"

    def __init__(self) -> None:
        super().__init__()
        self.backbone = ResNet(self.imagenet)
        _, _, third, fourth = SHAPES[self.imagenet].widths
        self.dr6, self.dr7 = _reduction(third), _reduction(fourth)
        self.regr6, self.regr7 = nn.Linear(64, 1), nn.Linear(64, 1)
        self.regression = nn.Linear(128, 1)
        # means of prediction, label, prediction², prediction·label; initially those of a line of slope one
        self.register_buffer("moments", torch.tensor([0.0, 0.0, 1.0, 1.0]))
        self.moments: torch.Tensor

    @property
    def trunk(self) -> nn.Module:
        return self.backbone

    def streams(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute the predictions (N,) of the third stage, of the fourth and of both, each of arbitrary scale and offset."""
        *_, third_maps, fourth_maps = self.backbone.stages(normalized(images))
        third, fourth = self.dr6(third_maps.mean(dim=(2, 3))), self.dr7(fourth_maps.mean(dim=(2, 3)))
        both = self.regression(torch.cat([third, fourth], dim=1))
        return self.regr6(third).squeeze(1), self.regr7(fourth).squeeze(1), both.squeeze(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._rescaled(self.streams(images)[-1])

    def training_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Compute the norm-in-norm loss of the prediction plus a tenth of that of each stage's own prediction; a scalar."""
        third, fourth, both = (stream.float() for stream in self.streams(images))
        self._update_moments(both.detach(), labels)
        parts = [norm_in_norm(stream, labels) for stream in (third, fourth)]
        loss: torch.Tensor = norm_in_norm(both, labels) + STREAM_WEIGHT * torch.stack(parts).sum()
        return loss

    def _update_moments(self, predictions: torch.Tensor, labels: torch.Tensor) -> None:
        moments = torch.stack([predictions, labels, predictions**2, predictions * labels]).mean(dim=1)
        self.moments.lerp_(moments.to(self.moments), MOMENTUM)

    def _rescaled(self, predictions: torch.Tensor) -> torch.Tensor:
        mean, label, square, product = self.moments.to(predictions)
        slope = (product - mean * label) / (square - mean**2).clamp(min=1e-12)
        scores: torch.Tensor = label + slope * (predictions - mean)
        return scores


def _reduction(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, 1024),
        nn.BatchNorm1d(1024),
        nn.Linear(1024, 256),
        nn.BatchNorm1d(256),
        nn.Linear(256, 64),
        nn.BatchNorm1d(64),
        nn.ReLU(),
    )


def norm_in_norm(predictions: torch.Tensor, labels: torch.Tensor, p: float = 1.0, q: float = 2.0) -> torch.Tensor:
    """Compute the loss of the paper, in [0, 1]: ‖ŝ − s‖ₚᵖ over its maximum, with both lists centred and of unit ℓ_q norm.

    With p = q = 2 it is (1 − PLCC) / 2.

    Args:
        predictions, labels: (N,), N ≥ 2.
        p, q: orders of the outer and the inner norm, 1 and 2 in the paper.

    Returns:
        A scalar.
    """
    centred = [values - values.mean() for values in (predictions, labels)]
    # the floor avoids a division by zero in batches of equal values
    scaled_predictions, scaled_labels = (values / values.norm(p=q).clamp(min=1e-8) for values in centred)
    greatest = 2 ** max(1.0, 1 / q) * len(labels) ** max(0.0, 1 / p - 1 / q)
    loss: torch.Tensor = ((scaled_predictions - scaled_labels).norm(p=p) / greatest) ** p
    return loss
