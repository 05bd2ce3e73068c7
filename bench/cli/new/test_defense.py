"""`my-idea` fulfils the contract of defenses, and its filter matches the definition."""

from __future__ import annotations

import torch

from iqarena.bench.checks import check_defense
from iqarena.bench.cli.new.defense import MyIdea


def test_my_idea_fulfils_the_contract() -> None:
    assert [finding for finding in check_defense(MyIdea(), ("cnniqa",)) if not finding.ok] == []


def test_my_idea_is_the_mean_of_a_square() -> None:
    images = torch.rand(1, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    purified = MyIdea().purifier()(images)
    assert purified.shape == images.shape
    torch.testing.assert_close(purified[0, 1, 4, 3], images[0, 1, 3:6, 2:5].mean())
    torch.testing.assert_close(MyIdea(radius=0).purifier()(images), images)
