"""`cnniqa`: the first convolutional network for no-reference quality (Kang, Ye, Li, Doermann, CVPR 2014)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from iqarena.models.base import FeatureModel, ModelInfo

PATCH, KERNEL, FILTERS = 32, 7, 50
_LUMA = (0.299, 0.587, 0.114)


def _box_mean(padded: torch.Tensor) -> torch.Tensor:
    """Compute the mean over 7×7 windows by sums of shifted slices, on a CPU many times faster than pooling one channel."""
    height, width = padded.shape[-2] - KERNEL + 1, padded.shape[-1] - KERNEL + 1
    rows = torch.stack([padded[..., i : i + height, :] for i in range(KERNEL)]).sum(0)
    return torch.stack([rows[..., i : i + width] for i in range(KERNEL)]).sum(0) / KERNEL**2


def normalize_contrast(gray: torch.Tensor) -> torch.Tensor:
    """Apply the local contrast normalisation of the paper, (I − μ) / (σ + 1) over 7×7 windows; (N, 1, H, W) in [0, 255]."""
    padded = functional.pad(gray, (3, 3, 3, 3), mode="reflect")
    mean = _box_mean(padded)
    variance = _box_mean(padded * padded) - mean * mean
    # the floor keeps the gradient of the root finite in flat areas
    return (gray - mean) / (variance.clamp(min=1e-4).sqrt() + 1)


class CNNIQA(FeatureModel):
    """50 7×7 filters on contrast-normalised 32×32 grey patches, max- and min-pooled, two layers of 800; mean over patches.

    Patches do not overlap and cover the image from its top left corner; a remainder below 32 pixels is ignored. Raw score in
    about [0, 1]. 0.72 M parameters.
    """

    info = ModelInfo("cnniqa", min_size=PATCH, licence="MIT", paper="https://doi.org/10.1109/CVPR.2014.224")
    in_zoo = True

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, FILTERS, KERNEL)
        self.regress = nn.Sequential(
            nn.Linear(2 * FILTERS, 800), nn.ReLU(), nn.Linear(800, 800), nn.ReLU(), nn.Dropout(0.5), nn.Linear(800, 1)
        )

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the largest and smallest response of each filter in each patch, as maps (N · patches, 100, 1, 1)."""
        luma = images.new_tensor(_LUMA).view(1, 3, 1, 1)
        gray = normalize_contrast((images * luma).sum(1, keepdim=True) * 255)
        patches = gray.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).reshape(-1, 1, PATCH, PATCH)
        return self._pooled_responses(patches)[:, :, None, None]

    def head(self, features: torch.Tensor, count: int) -> torch.Tensor:
        scores: torch.Tensor = self.regress(features.flatten(1))
        return scores.view(count, -1).mean(dim=1)

    def _pooled_responses(self, patches: torch.Tensor) -> torch.Tensor:
        """Compute the largest and the smallest response of each filter, (P, 100), of patches (P, 1, 32, 32).

        The gradient of a maximum flows only to the winning window. So the winners are found without a graph, and only
        their responses are computed again with one: the same values and gradients as pooling all responses, at a fraction of
        the cost.
        """
        positions = PATCH - KERNEL + 1
        with torch.no_grad():
            # a few patches at a time, so that their responses are still in the cache when the winners are selected
            responses = (self.conv(part).flatten(2) for part in patches.split(36))
            winners = torch.cat([torch.cat([r.argmax(dim=2), r.argmin(dim=2)], dim=1) for r in responses])
            corner = winners.div(positions, rounding_mode="floor") * PATCH + winners % positions
            steps = torch.arange(KERNEL, device=patches.device)
            window = (steps[:, None] * PATCH + steps[None, :]).flatten()
            index = (corner[..., None] + window).flatten(1)
        windows = patches.flatten(1).gather(1, index).view(len(patches), 2, FILTERS, KERNEL**2)
        assert self.conv.bias is not None
        pooled = (windows * self.conv.weight.view(FILTERS, -1)).sum(-1) + self.conv.bias
        return pooled.flatten(1)
