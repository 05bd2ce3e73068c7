"""A small U-Net (Ronneberger, Fischer, Brox, arXiv 1505.04597), for attacks that learn a network."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from iqarena.attacks.base import Generators

_BLOCK = 4
"""The first layer reads blocks of 4×4 pixels and the last one writes them, which saves most of the computation."""
_LEVELS = 3


class UNet(nn.Module):
    """A U-Net from images (N, 3, H, W) of any size to maps of the same size in (−1, 1), without interaction in a batch.

    Args:
        width: channels at the outermost level, a multiple of 4; each further level has `width` more.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = [width * (level + 1) for level in range(_LEVELS + 1)]
        self.first = _block(3 * _BLOCK**2, wide[0])
        self.down = nn.ModuleList(_block(wide[level], wide[level + 1]) for level in range(_LEVELS))
        levels = list(reversed(range(_LEVELS)))
        # each position within a block of the level above has its own weights, so that textures can be generated
        self.larger = nn.ModuleList(nn.ConvTranspose2d(wide[level + 1], wide[level], 2, 2) for level in levels)
        self.up = nn.ModuleList(_block(2 * wide[level], wide[level]) for level in levels)
        self.last = nn.Conv2d(wide[0], 3 * _BLOCK**2, 3, padding=1)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        height, width = images.shape[2:]
        multiple = _BLOCK * 2**_LEVELS
        padded = functional.pad(images, (0, -width % multiple, 0, -height % multiple), mode="replicate")
        maps = [self.first(functional.pixel_unshuffle(4 * padded - 2, _BLOCK))]
        for block in self.down:
            maps.append(block(functional.avg_pool2d(maps[-1], 2)))
        inner = maps.pop()
        for larger, block in zip(self.larger, self.up, strict=True):
            inner = block(torch.cat([larger(inner), maps.pop()], dim=1))
        return functional.pixel_shuffle(self.last(inner), _BLOCK)[:, :, :height, :width].tanh()


def _block(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False), nn.GroupNorm(4, channels_out), nn.ReLU()
    )


def seeded(width: int, generator: Generators) -> UNet:
    """Build a U-Net whose initial weights are drawn from the generator, without changing torch's global stream."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generator.seed())
        return UNet(width)
