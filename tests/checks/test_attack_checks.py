"""`iqarena check` of attacks: every check finds the fault that was planted for it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from iqarena.attacks.base import Attack
from iqarena.attacks.random_noise import RandomNoise
from tests.support.checked_plugins import Good, findings, made_of


def faulty(**members):
    """Return an instance of `Good` with other members."""
    return made_of(Good, members)


def too_far(self, attacked, images, threat):
    return images + 1.3 * (attacked - images)


def off_the_grid(self, attacked, images, threat):
    return images + threat.size * 1.001 * (attacked - images).sign()


def mixes_the_batch(self, attacked, images, threat):
    return Good.stay(self, images + (attacked - images) * (1 if len(images) < 3 else -1), images, threat)


def global_noise(self, attacked, images, threat):
    return Good.stay(self, images + threat.size * (2 * torch.rand_like(images) - 1), images, threat)


def own_seed(self, attacked, images, threat):
    np.random.seed(0)
    return Good.stay(self, attacked, images, threat)


def in_place(self, attacked, images, threat):
    images += 0.1
    return images


def remembers(self, attacked, images, threat):
    vars(self)["last"] = 1
    return Good.stay(self, attacked, images, threat)


def sets_dtype(self, target, images, objective, threat, generator):
    torch.set_num_threads(torch.get_num_threads() + 1)
    return Good.run(self, target, images, objective, threat, generator)


def past_the_target(self, target, images, objective, threat, generator):
    leaf = images.clone().requires_grad_()
    with torch.enable_grad():
        (gradient,) = torch.autograd.grad(objective.loss(target.model.quality(leaf)).sum(), leaf)
    return self.stay(images - threat.size * gradient.sign(), images, threat)


def raw_scores(self, target, images, objective, threat, generator):
    _, gradient = target.quality_and_grad(images, lambda quality: quality)
    turn = 1 if target.model.info.higher_is_better else -1
    return self.stay(images - turn * threat.size * gradient.sign(), images, threat)


def trains_the_model(self, target, images, objective, threat, generator):
    target.model.train()
    return images


def asks_without_end(self, target, images, objective, threat, generator):
    for _ in range(3):
        _, gradient = target.quality_and_grad(images, objective.loss)
    return self.stay(images - threat.size * gradient.sign(), images, threat)


def divides(self, target, images, objective, threat, generator):
    if (images.flatten(1).std(dim=1) == 0).any():
        raise ZeroDivisionError("no contrast")
    return Good.run(self, target, images, objective, threat, generator)


def even_only(self, target, images, objective, threat, generator):
    if images.shape[2] % 2:
        raise ValueError("height must be even")
    return Good.run(self, target, images, objective, threat, generator)


FAULTS = {
    "a name with capitals": (faulty(name="Bad Name"), "name", "small letters"),
    "no docstring": (faulty(__doc__=None), "docstring", "Attributes:"),
    "no paper": (faulty(paper=""), "paper", "published nowhere"),
    "an unknown access": (faulty(access="all"), "class attributes", "known words"),
    "an unknown norm": (faulty(norms=("l7",)), "class attributes", "known words"),
    "norms that are no tuple": (faulty(norms="linf"), "class attributes", "known words"),
    "raises": (faulty(run=lambda self, *_: 1 / 0), "runs", "refuse"),
    "returns NaN": (faulty(stay=lambda self, attacked, *_: attacked * torch.nan), "returns", "no NaN"),
    "returns float64": (faulty(stay=lambda self, attacked, *_: attacked.double()), "returns", "float32"),
    "returns one image": (faulty(stay=lambda self, attacked, *_: attacked[0]), "returns", "(N, 3, H, W)"),
    "returns a list": (faulty(run=lambda self, target, images, *_: [images]), "returns", "tensor"),
    "leaves the ball": (faulty(stay=too_far), "threat model", "threat.project"),
    "leaves it by a hair": (faulty(stay=off_the_grid), "threat model", "threat.project"),
    "draws from the global stream": (faulty(stay=global_noise), "seed", "generator"),
    "moves the global stream": (faulty(stay=global_noise), "leaves alone", "set no seed"),
    "seeds the global stream": (faulty(stay=own_seed), "leaves alone", "set no seed"),
    "writes into the images": (faulty(stay=in_place), "leaves alone", "copies"),
    "keeps something": (faulty(stay=remembers), "leaves alone", "nothing on self"),
    "sets threads": (faulty(run=sets_dtype), "leaves alone", "no setting of torch"),
    "trains the model": (faulty(run=trains_the_model), "leaves alone", "copies"),
    "asks too often": (faulty(run=asks_without_end), "query budget", "queries_left"),
    "costs more than it says": (faulty(run=asks_without_end), "cost", "passes"),
    "asks past the target": (faulty(run=past_the_target), "counting", "never target.model"),
    "declares too little": (faulty(access="score"), "runs", "refuse"),
    "declares too much": (faulty(run=lambda self, target, images, *_: images), "access", "set access"),
    "mixes the batch": (faulty(stay=mixes_the_batch), "batch", "that image"),
    "even sides only": (faulty(run=even_only), "odd sizes", "any height"),
    "no flat images": (faulty(run=divides), "flat images", "variance"),
    "one direction only": (faulty(run=raw_scores), "both directions", "objective.loss"),
    "does nothing": (faulty(run=lambda self, target, images, *_: images), "both directions", "objective.loss"),
}


def test_a_good_attack_passes_every_check() -> None:
    assert [name for name, (ok, *_) in findings(Good()).items() if not ok] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_an_attack_is_found_and_the_report_says_what_to_change(fault: str) -> None:
    plugin, name, advice = FAULTS[fault]
    ok, measured, advice_given = findings(plugin)[name]
    assert not ok, measured
    assert measured
    assert advice in advice_given


def test_a_parameter_that_is_not_described_is_found() -> None:
    @dataclass(frozen=True)
    class Silent(Good):
        """An attack whose docstring does not describe its parameter."""

        extra: float = 0.0

    assert findings(Silent())["docstring"][:2] == (False, "nothing about extra")


def test_a_class_that_can_be_changed_and_one_without_defaults_are_found() -> None:
    @dataclass
    class Loose(Attack):
        """A mutable attack with a required parameter.

        Attributes:
            extra: something.
        """

        name = "loose"
        access = "none"

        extra: float

        run = RandomNoise.run

    ok, measured, advice = findings(Loose(1.0))["parameters"]
    assert not ok
    assert "changed after" in measured
    assert "frozen=True" in advice
    assert "default" in advice


def test_a_control_needs_no_paper_and_no_strength() -> None:
    assert all(ok for ok, *_ in findings(RandomNoise()).values())
