"""`my-idea`: the contract of models, and what it makes of noise and blur."""

from __future__ import annotations

import torch
from torch.nn.functional import avg_pool2d

from iqarena.bench.cli.new.model import MyIdea
from iqarena.bench.inference.model_checks import natural, probe


def test_my_idea_keeps_to_the_contract() -> None:
    assert [finding for finding in probe(MyIdea().eval()) if not finding.ok] == []


def test_my_idea_likes_neither_noise_nor_blur() -> None:
    image, model = natural(129, 177)[:1], MyIdea().eval()
    noise = 0.2 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    worse = (image + noise).clamp(0, 1), avg_pool2d(image, 9, stride=1)
    with torch.no_grad():
        assert all(model.quality(image) > model.quality(other) for other in worse)
