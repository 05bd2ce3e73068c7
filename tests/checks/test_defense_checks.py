"""`iqarena check` of defenses: every check finds the fault that was planted for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from iqarena.defenses.base import DoesNotApply, TrainedDefense
from iqarena.defenses.certified.base import Certificate, CertifiedDefense
from iqarena.defenses.purification.base import PurifiedModel
from tests.support.checked_plugins import Fine, Wrapped, findings, made_of


def weak(base=Fine, **members):
    """Return an instance of `Fine`, or of another base, with other members."""
    return made_of(base, members)


def by(change):
    """Return a `protect` that changes the scores."""
    return lambda self, model: Wrapped(model, change)


def over_contrast(scores, images):
    return scores * images.std(dim=(1, 2, 3)) / images.std(dim=(1, 2, 3))


def spoils(self, model):
    with torch.no_grad():
        next(model.parameters()).add_(1e-3)
    return PurifiedModel(model, self.purifier())


def other_range(self, model):
    protected = Wrapped(model, lambda scores, images: scores)
    protected.info = replace(model.info, score_range=(0.0, 2.0))
    return protected


def drawn_once(self, model):
    shift = float(torch.rand(()))
    return Wrapped(model, lambda scores, images: scores + shift)


def no_fit(self, model):
    raise DoesNotApply("it is for another kind")


def of_raw_scores(self, model):
    low, high = model.info.score_range
    return Wrapped(model, lambda scores, images: low + (high - low) * ((scores - low) / (high - low)).clamp(min=0) ** 2)


def certifies(low, high):
    def certify(self, model, images, radius):
        return Certificate(torch.full((len(images),), low), torch.full((len(images),), high), radius, 1.0)

    return certify


def certified(certify):
    bases = {"name": "proven", "protect": lambda self, model: model, "certify": certify, "paper": "of these tests"}
    return weak(CertifiedDefense, **bases)


def recipe(loss):
    return weak(TrainedDefense, name="recipe", paper="of these tests", passes_an_image=1, loss=loss)


WEAKNESSES = {
    "an unknown kind": (weak(kind="magic"), "class attributes", "known words"),
    "raises": (weak(protect=lambda self, model: 1 / 0), "applies", "DoesNotApply"),
    "fits nothing": (weak(protect=no_fit), "applies", "--model"),
    "returns no model": (weak(protect=lambda self, model: None), "applies", "QualityModel"),
    "one score for all": (weak(protect=by(lambda scores, images: scores[:1])), "shape", "one score an image"),
    "NaN on flat images": (weak(protect=by(over_contrast)), "flat images", "variance"),
    "mixes the batch": (weak(protect=by(lambda scores, images: scores - 0.1 * scores.mean())), "batch", "statistics"),
    "draws and does not say so": (weak(protect=by(lambda s, x: s + 0.1 * torch.rand_like(s))), "repeats", "stochastic=True"),
    "says that it draws": (weak(stochastic=True), "repeats", "stochastic=True"),
    "seeds": (weak(protect=by(lambda s, x: s + 0 * float(np.random.seed(0) is None))), "random state", "set no seed"),
    "writes into the images": (weak(purifier=lambda self: lambda images: images.mul_(0.9)), "input", "copy"),
    "spoils the model": (weak(protect=spoils), "undefended model", "deepcopy"),
    "another range": (weak(protect=other_range), "facts", "score_range"),
    "draws when it is made": (weak(protect=drawn_once), "twice", "seed"),
    "raw scores": (weak(protect=of_raw_scores), "both directions", "qualities"),
    "no gradient": (weak(purifier=lambda self: torch.Tensor.detach), "surrogate: gradient", "let it through"),
    "another surrogate": (weak(surrogate=by(lambda scores, images: 1 - scores)), "surrogate", "nearly the same scores"),
    "a surrogate that raises": (weak(surrogate=lambda self, model: 1 / 0), "surrogate", "nearly the same scores"),
    "a gradient of something else": (
        weak(purifier=lambda self: lambda x: x.flip(3) + (x - x.flip(3)).detach()),
        "surrogate: slope",
        "another function's",
    ),
    "a certificate that does not hold": (certified(certifies(0.0, 0.01)), "certificate", "hold the deployed quality"),
    "a certificate of another shape": (
        certified(lambda self, *_: Certificate(torch.zeros(()), torch.ones(()), 1.0, 1.0)),
        "certificate",
        "(N,)",
    ),
    "a loss an image": (recipe(lambda self, model, images, labels, progress: model(images)), "recipe", "scalar"),
    "a loss of nothing": (
        recipe(lambda self, model, images, labels, progress: (images.sum() * 0).requires_grad_()),
        "recipe",
        "weights",
    ),
}


def test_a_fine_defense_passes_every_check() -> None:
    assert [name for name, (ok, *_) in findings(Fine()).items() if not ok] == []


@pytest.mark.parametrize("weakness", WEAKNESSES)
def test_each_fault_of_a_defense_is_found_and_the_report_says_what_to_change(weakness: str) -> None:
    plugin, name, advice = WEAKNESSES[weakness]
    ok, measured, advice_given = findings(plugin)[name]
    assert not ok, measured
    assert measured
    assert advice in advice_given


def test_a_certificate_that_holds_and_a_recipe_that_learns_pass() -> None:
    assert findings(certified(certifies(-np.inf, np.inf)))["certificate"][0]
    good = recipe(lambda self, model, images, labels, progress: (model(images) - labels).square().mean())
    assert findings(good)["recipe"][0]
