"""`my-idea` fulfils the contract of models, and noise and blur lower its quality."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d

from iqarena.bench.checks import check_model
from iqarena.bench.cli.new.model import MyIdea
from iqarena.bench.inference.model_checks import natural


def test_my_idea_fulfils_the_contract() -> None:
    assert [finding for finding in check_model(MyIdea().eval()) if not finding.ok] == []


def test_noise_and_blur_lower_the_quality() -> None:
    image, model = natural(129, 177)[:1], MyIdea().eval()
    noise = 0.2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    distorted = (image + noise).clamp(0, 1), avg_pool2d(image, 9, stride=1)
    with torch.no_grad():
        assert all(model.quality(image) > model.quality(worse) for worse in distorted)
