"""`linearity-iqa`: trained for a linear relation to the labels (Li, Jiang, Jiang, ACM MM 2020, arXiv 2008.03889)."""

from __future__ import annotations

import torch
from torch import nn

from iqarena.models.base import ModelInfo, QualityModel
from iqarena.models.imagenet import OnImageNet, normalized
from iqarena.models.resnet import SHAPES, ResNet

STREAM_WEIGHT = 0.1
"""Of the loss of each stage's own prediction, beside 1 for that of both together."""

MOMENTUM = 0.01
"""Of the statistics that the line from predictions to labels is fitted to."""


class LinearityIQA(OnImageNet, QualityModel):
    """The third and the fourth stage of ResNeXt-101, each mean-pooled and brought down to 64 numbers, and a linear layer.

    What is trained by the norm-in-norm loss has any scale and offset; a line fitted by least squares to predictions and
    labels of the last some hundred batches brings it to the labels' own. Raw score about [0, 1]. Any image of at least
    32×32 pixels; 90.5 M parameters, not shipped.
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
        # means of prediction, label, prediction², prediction·label: they begin as those of a line of slope one
        self.register_buffer("moments", torch.tensor([0.0, 0.0, 1.0, 1.0]))
        self.moments: torch.Tensor

    @property
    def trunk(self) -> nn.Module:
        return self.backbone

    def streams(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Predictions (N,) of the third stage, of the fourth and of both, each of any scale and offset."""
        *_, third, fourth = self.backbone.stages(normalized(images))
        one, two = self.dr6(third.mean(dim=(2, 3))), self.dr7(fourth.mean(dim=(2, 3)))
        both = self.regression(torch.cat([one, two], dim=1))
        return self.regr6(one).squeeze(1), self.regr7(two).squeeze(1), both.squeeze(1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._on_the_line(self.streams(images)[-1])

    def training_loss(self, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Norm-in-norm loss of the prediction, with a tenth of that of each stage's own; a scalar."""
        one, two, both = (stream.float() for stream in self.streams(images))
        self._follow(both.detach(), labels)
        parts = [norm_in_norm(stream, labels) for stream in (one, two)]
        loss: torch.Tensor = norm_in_norm(both, labels) + STREAM_WEIGHT * torch.stack(parts).sum()
        return loss

    def _follow(self, predictions: torch.Tensor, labels: torch.Tensor) -> None:
        seen = torch.stack([predictions, labels, predictions**2, predictions * labels]).mean(dim=1)
        self.moments.lerp_(seen.to(self.moments), MOMENTUM)

    def _on_the_line(self, predictions: torch.Tensor) -> torch.Tensor:
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
    """The loss of the paper, in [0, 1]: ‖ŝ − s‖ₚᵖ over its greatest value, both lists centred and of ℓ_q length one.

    With p = q = 2 it is (1 − PLCC) / 2.

    Args:
        predictions, labels: (N,), N ≥ 2.
        p, q: of the outer and the inner norm; the paper's choice is 1 and 2.

    Returns:
        A scalar.
    """
    centred = [values - values.mean() for values in (predictions, labels)]
    # the floor keeps batches in which all are equal from dividing by zero
    ours, theirs = (values / values.norm(p=q).clamp(min=1e-8) for values in centred)
    greatest = 2 ** max(1.0, 1 / q) * len(labels) ** max(0.0, 1 / p - 1 / q)
    loss: torch.Tensor = ((ours - theirs).norm(p=p) / greatest) ** p
    return loss
