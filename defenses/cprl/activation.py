"""Channel activations of CPRL and their control; our reconstruction from the abstract of arXiv 2404.19567."""

from __future__ import annotations

from abc import abstractmethod

import torch

from iqarena.defenses.cprl.model import Activation


def soft_rank(strengths: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute differentiable ranks of channels, 1 = strongest.

    r_c = 1 + Σ_{j≠c} sigmoid((s_j − s_c) / τ), with τ = temperature · std(s) of each image; for τ → 0 the hard rank.

    Args:
        strengths: (N, C).
        temperature: in standard deviations of the strengths of an image.

    Returns:
        (N, C), from 1 to C.
    """
    tau = temperature * strengths.std(dim=1, keepdim=True).clamp(min=1e-6)
    higher = torch.sigmoid((strengths[:, None, :] - strengths[:, :, None]) / tau[:, :, None])
    return 0.5 + higher.sum(dim=2)  # the sum includes the channel itself with 1/2


def _edge(ranks: torch.Tensor, keep: float, sharpness: float) -> torch.Tensor:
    """Compute the mask (…, C) of channels with these ranks: sigmoid((ρC − r) / (T·C))."""
    channels = ranks.shape[-1]
    return torch.sigmoid((keep * channels - ranks) / (sharpness * channels))


class ChannelMask(Activation):
    """Base of channel masks: CPR = m̃·z with a mask m of the channels and m̃ = 1 − a·(1 − m).

    Attributes:
        in_force: a, in [0, 1]; below 1 only while training ramps the mask up.
    """

    in_force: float = 1.0

    @abstractmethod
    def full(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the mask m in (0, 1), (N, C, 1, 1), of feature maps (N, C, h, w)."""

    def kept(self, features: torch.Tensor) -> torch.Tensor:
        """Compute m̃, (N, C, 1, 1)."""
        return 1 - self.in_force * (1 - self.full(features)) if self.in_force < 1 else self.full(features)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features * self.kept(features).to(features.dtype)


class SoftRankActivation(ChannelMask):
    """A soft mask of the strongest channels: m_c = sigmoid((ρC − r_c) / (T·C)), with r the soft rank of mean |z_c|.

    Args:
        keep: ρ, fraction of the channels that is kept.
        temperature: temperature of the soft rank, in standard deviations.
        sharpness: T, width of the edge of the mask, as a fraction of the channels.
    """

    def __init__(self, keep: float, temperature: float, sharpness: float) -> None:
        super().__init__()
        self.keep, self.temperature, self.sharpness = keep, temperature, sharpness

    def full(self, features: torch.Tensor) -> torch.Tensor:
        """Compute the mask from the channel strengths of each image."""
        ranks = soft_rank(features.abs().mean(dim=(2, 3)).float(), self.temperature)
        return _edge(ranks, self.keep, self.sharpness)[:, :, None, None]


class StableRankActivation(ChannelMask):
    """A mask, the same for every image, of the channels that discriminate between images and are stable under attacks.

    With a_c = mean_hw z_c of an image x and x′ the attacked image, the channels are ranked by V_c / D_c,

        V_c = variance over images of a_c(x),    D_c = mean over images of (a_c(x′) − a_c(x))²,

    as running means over the training. A trained mask is constant: attacks cannot change it, and it hides no gradient.
    During training, a batch consists of clean images followed by the same images attacked.

    Args:
        keep, sharpness: as for `SoftRankActivation`.
        channels: C.
        momentum: weight of a batch in the running means.
    """

    signal: torch.Tensor
    shift: torch.Tensor

    def __init__(self, keep: float, sharpness: float, channels: int, momentum: float = 0.05) -> None:
        super().__init__()
        self.keep, self.sharpness, self.momentum = keep, sharpness, momentum
        for name in ("signal", "shift"):
            self.register_buffer(name, torch.zeros(channels))

    def observe(self, clean: torch.Tensor, attacked: torch.Tensor) -> None:
        """Update the running means with feature maps (N, C, h, w) of clean images and of the same images attacked."""
        with torch.no_grad():
            before, after = (maps.float().mean(dim=(2, 3)) for maps in (clean, attacked))
            # both start at 0, so both are too small by the same factor, which cancels in their ratio
            self.signal.lerp_(before.var(dim=0, unbiased=False).to(self.signal.dtype), self.momentum)
            self.shift.lerp_((after - before).square().mean(dim=0).to(self.shift.dtype), self.momentum)

    def full(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mask (N, C, 1, 1), the same for every image."""
        # a dead channel has neither signal nor shift, and is ranked last
        ratio = self.signal / (self.shift + 1e-6 * self.signal.mean() + 1e-20)
        ranks = 1.0 + ratio.argsort(descending=True, stable=True).argsort()
        return _edge(ranks, self.keep, self.sharpness)[None, :, None, None].expand(len(features), -1, -1, -1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.observe(*features.chunk(2))
        return super().forward(features)


class RandomMask(ChannelMask):
    """A control: a mask of the same size and the same soft edge, over the channels in a fixed random order.

    Args:
        keep, sharpness: as for `SoftRankActivation`.
        channels: C.
        seed: seed of the order.
    """

    mask: torch.Tensor

    def __init__(self, keep: float, sharpness: float, channels: int, seed: int) -> None:
        super().__init__()
        ranks = 1.0 + torch.randperm(channels, generator=torch.Generator().manual_seed(seed))
        self.register_buffer("mask", _edge(ranks, keep, sharpness)[None, :, None, None])

    def full(self, features: torch.Tensor) -> torch.Tensor:
        """Return the mask (N, C, 1, 1), the same for every image."""
        return self.mask.expand(len(features), -1, -1, -1)
