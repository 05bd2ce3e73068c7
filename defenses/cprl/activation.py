"""The soft-ranking channel activation of CPRL: our reconstruction from the abstract of arXiv 2404.19567."""

from __future__ import annotations

import torch
from torch import nn


def soft_rank(strengths: torch.Tensor, temperature: float) -> torch.Tensor:
    """Differentiable ranks of channels, 1 = strongest.

    r_c = 1 + Σ_{j≠c} sigmoid((s_j − s_c) / τ), with τ = temperature · std(s) of each picture; for τ → 0 the hard rank.

    Args:
        strengths: (N, C).
        temperature: in standard deviations of a picture's strengths.

    Returns:
        (N, C), from 1 to C.
    """
    tau = temperature * strengths.std(dim=1, keepdim=True).clamp(min=1e-6)
    higher = torch.sigmoid((strengths[:, None, :] - strengths[:, :, None]) / tau[:, :, None])
    return 0.5 + higher.sum(dim=2)  # the sum holds the channel itself with 1/2


class SoftRankActivation(nn.Module):
    """Keeps the strongest channels softly: CPR = m·z with m_c = sigmoid((ρC − r_c) / T), r the soft rank of mean |z_c|.

    Args:
        keep: ρ, share of the channels that is kept.
        temperature: of the soft rank, in standard deviations.
        sharpness: T, the width of the mask's edge, as a share of the channels.
    """

    def __init__(self, keep: float, temperature: float, sharpness: float) -> None:
        super().__init__()
        self.keep, self.temperature, self.sharpness = keep, temperature, sharpness

    def mask(self, features: torch.Tensor) -> torch.Tensor:
        """The mask m in (0, 1), (N, C), of feature maps (N, C, h, w)."""
        channels = features.shape[1]
        ranks = soft_rank(features.abs().mean(dim=(2, 3)).float(), self.temperature)
        return torch.sigmoid((self.keep * channels - ranks) / (self.sharpness * channels))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.mask(features).to(features.dtype)[:, :, None, None]
