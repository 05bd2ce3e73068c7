"""SSIM of two images as a differentiable function."""

from __future__ import annotations

import torch
from torch.nn import functional

LUMA = (0.299, 0.587, 0.114)
WINDOW = 11
"""Side of the SSIM window; images must be at least this large."""
_SIGMA = 1.5
_C1, _C2 = 0.01**2, 0.03**2


def luma(images: torch.Tensor) -> torch.Tensor:
    """Compute the luma (Y of ITU-R BT.601), (N, 1, H, W), of RGB images (N, 3, H, W)."""
    return torch.einsum("c,nchw->nhw", images.new_tensor(LUMA), images)[:, None]


def ssim(images: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Compute the structural similarity (Wang, Bovik, Sheikh, Simoncelli, TIP 2004) of the luma, (N,), at most 1.

    Gaussian window of 11×11 with σ = 1.5, population covariance, mean over the windows that lie inside the image.

    Args:
        images, clean: images (N, 3, H, W) in [0, 1], at least 11×11.
    """
    at = torch.arange(WINDOW, dtype=images.dtype, device=images.device) - WINDOW // 2
    window = torch.exp(-(at**2) / (2 * _SIGMA**2))
    window = window / window.sum()
    x, y = luma(images), luma(clean)
    # one channel per map: as channels of one image they are filtered about fifteen times as fast as a batch of images
    maps = torch.cat([x, y, x * x, y * y, x * y]).transpose(0, 1)
    count = maps.shape[1]
    maps = functional.conv2d(maps, window.view(1, 1, 1, -1).expand(count, 1, 1, -1), groups=count)
    maps = functional.conv2d(maps, window.view(1, 1, -1, 1).expand(count, 1, -1, 1), groups=count).transpose(0, 1)
    mean_x, mean_y, square_x, square_y, product = maps.chunk(5)
    covariance = product - mean_x * mean_y
    variances = (square_x - mean_x**2) + (square_y - mean_y**2)
    similar = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    similar = similar / ((mean_x**2 + mean_y**2 + _C1) * (variances + _C2))
    return similar.flatten(1).mean(dim=1)


def ssim_and_grad(images: torch.Tensor, clean: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute SSIM (N,) and its gradient (N, 3, H, W) with respect to the images."""
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        similar = ssim(leaf, clean)
        (gradient,) = torch.autograd.grad(similar.sum(), leaf)
    return similar.detach(), gradient
