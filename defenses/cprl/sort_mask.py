"""The SortMask of CPRL's journal version; our reconstruction from the abstract of Displays 88 (2025) 103046."""

from __future__ import annotations

from typing import Literal

import torch

from iqarena.defenses.cprl.model import Activation


class SortMask(Activation):
    """Blocks small changes around the mean: of each channel of each image, values nearer to its mean μ than t go to μ.

    With d = |z − μ| and t the ⌊p·h·w⌋-th smallest d of the channel; where that is none, nothing changes:

        soft    μ + sign(z − μ)·relu(d − t)     for fixed μ and t, no value moves by more than its input does
        hard    z where d > t, else μ           jumps at t, so it bounds nothing

    Args:
        share: p, in [0, 1).
        form: "soft" or "hard".
    """

    def __init__(self, share: float, form: Literal["soft", "hard"]) -> None:
        super().__init__()
        self.share, self.form = share, form

    def _place(self, features: torch.Tensor) -> int:
        return int(self.share * features.shape[2] * features.shape[3])

    def _parts(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """μ (N, C, 1, 1), z − μ, and t (N, C, 1, 1)."""
        mean = features.mean(dim=(2, 3), keepdim=True)
        shift = features - mean
        # an order statistic, so that half precision will do and no size is too large
        threshold = shift.abs().flatten(2).kthvalue(self._place(features), dim=2).values[:, :, None, None]
        return mean, shift, threshold

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """1 where a value is farther from its mean than t, else 0; (N, C, h, w)."""
        if self._place(features) < 1:
            return torch.ones_like(features)
        _, shift, threshold = self._parts(features)
        return (shift.abs() > threshold).to(features.dtype)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self._place(features) < 1:
            return features
        mean, shift, threshold = self._parts(features)
        if self.form == "soft":
            return mean + shift.sign() * torch.relu(shift.abs() - threshold)
        return torch.where(shift.abs() > threshold, features, mean)
