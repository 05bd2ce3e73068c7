"""The soft-ranking channel activation of CPRL, and its control; our reconstruction from the abstract of arXiv 2404.19567."""

from __future__ import annotations

import torch

from defenses.cprl.model import Activation


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


def _edge(ranks: torch.Tensor, keep: float, sharpness: float) -> torch.Tensor:
    """The mask of channels with these ranks, (…, C): sigmoid((ρC − r) / (T·C))."""
    channels = ranks.shape[-1]
    return torch.sigmoid((keep * channels - ranks) / (sharpness * channels))


class SoftRankActivation(Activation):
    """Keeps the strongest channels softly: CPR = m·z with m_c = sigmoid((ρC − r_c) / T), r the soft rank of mean |z_c|.

    Args:
        keep: ρ, share of the channels that is kept.
        temperature: of the soft rank, in standard deviations.
        sharpness: T, the width of the mask's edge, as a share of the channels.
    """

    def __init__(self, keep: float, temperature: float, sharpness: float) -> None:
        super().__init__()
        self.keep, self.temperature, self.sharpness = keep, temperature, sharpness

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """The mask m in (0, 1), (N, C, 1, 1), of feature maps (N, C, h, w)."""
        ranks = soft_rank(features.abs().mean(dim=(2, 3)).float(), self.temperature)
        return _edge(ranks, self.keep, self.sharpness)[:, :, None, None]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.kept(features).to(features.dtype)


class RandomMask(Activation):
    """The control: a mask of the same size and the same soft edge, over channels in an order that was drawn once.

    Args:
        keep, sharpness: as of `SoftRankActivation`.
        channels: C.
        seed: of the order.
    """

    mask: torch.Tensor

    def __init__(self, keep: float, sharpness: float, channels: int, seed: int) -> None:
        super().__init__()
        ranks = 1.0 + torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("mask", _edge(ranks, keep, sharpness)[None, :, None, None])

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """The same mask, (N, C, 1, 1), for every picture."""
        return self.mask.expand(len(features), -1, -1, -1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.mask.to(features.dtype)
