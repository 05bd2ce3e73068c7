"""The SortMask of CPRL's journal version; our reconstruction from the abstract of Displays 88 (2025) 103046."""

from __future__ import annotations

from typing import Literal

import torch

from defenses.cprl.model import Activation


class SortMask(Activation):
    """Blocks small changes around the mean: of each channel of each picture, values nearer to its mean μ than t go to μ.

    With d = |z − μ| and t the p-quantile of d over the channel's h·w values:

        soft    μ + sign(z − μ) · relu(d − t)     for fixed μ and t, no value moves more than its input (1-Lipschitz)
        hard    z where d > t, else μ             jumps at t, so it bounds nothing

    p = 0 changes nothing.

    Args:
        share: p, in [0, 1).
        form: "soft" or "hard".
    """

    def __init__(self, share: float, form: Literal["soft", "hard"]) -> None:
        super().__init__()
        self.share, self.form = share, form

    def _parts(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """μ (N, C, 1, 1), z − μ, and t (N, C, 1, 1)."""
        mean = features.mean(dim=(2, 3), keepdim=True)
        shift = features - mean
        if self.share == 0:
            return mean, shift, torch.zeros_like(mean)
        # the ⌊p·n⌋-th smallest: an order statistic, so that a constant channel has t = 0 and half precision will do
        distances = shift.abs().flatten(2)
        place = max(int(self.share * distances.shape[2]), 1)
        return mean, shift, distances.kthvalue(place, dim=2).values[:, :, None, None]

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """1 where a value is farther from its mean than t, else 0; (N, C, h, w)."""
        _, shift, threshold = self._parts(features)
        return (shift.abs() > threshold).to(features.dtype)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.share == 0:
            return features
        mean, shift, threshold = self._parts(features)
        if self.form == "soft":
            return mean + shift.sign() * torch.relu(shift.abs() - threshold)
        return torch.where(shift.abs() > threshold, features, mean)
