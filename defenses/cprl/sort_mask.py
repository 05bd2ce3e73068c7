"""The SortMask of the journal version of CPRL; our reconstruction from the abstract of Displays 88 (2025) 103046."""

from __future__ import annotations

from typing import Literal

import torch

from iqarena.defenses.cprl.model import Activation


class SortMask(Activation):
    """A mask of small changes around the mean: values of a channel closer to its mean μ than t are replaced by μ.

    With d = |z − μ| and t the ⌊p·h·w⌋-th smallest d of the channel of an image; if ⌊p·h·w⌋ is 0, nothing changes:

        soft    μ + sign(z − μ)·relu(d − t)     1-Lipschitz for fixed μ and t
        hard    z if d > t, else μ              discontinuous at t, so without a Lipschitz bound

    Args:
        share: p, in [0, 1).
        form: "soft" or "hard".
    """

    def __init__(self, share: float, form: Literal["soft", "hard"]) -> None:
        super().__init__()
        self.share, self.form = share, form

    def _order(self, features: torch.Tensor) -> int:
        return int(self.share * features.shape[2] * features.shape[3])

    def _parts(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Compute μ (N, C, 1, 1), z − μ, and t (N, C, 1, 1)."""
        mean = features.mean(dim=(2, 3), keepdim=True)
        shift = features - mean
        # an order statistic, which works in half precision and for any size
        threshold = shift.abs().flatten(2).kthvalue(self._order(features), dim=2).values[:, :, None, None]
        return mean, shift, threshold

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the mask (N, C, h, w): 1 where a value is farther from its mean than t, else 0."""
        if self._order(features) < 1:
            return torch.ones_like(features)
        _, shift, threshold = self._parts(features)
        return (shift.abs() > threshold).to(features.dtype)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self._order(features) < 1:
            return features
        mean, shift, threshold = self._parts(features)
        if self.form == "soft":
            return mean + shift.sign() * torch.relu(shift.abs() - threshold)
        return torch.where(shift.abs() > threshold, features, mean)
