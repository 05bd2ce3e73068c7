"""`iqarena check`: every check of attacks and defenses finds the fault that was planted for it; the built-ins pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch

from iqarena.attacks.base import Attack
from iqarena.attacks.ensemble import Ensemble
from iqarena.attacks.random_noise import RandomNoise
from iqarena.bench.checks.attack import probe_attack
from iqarena.bench.checks.comparison import compare_attack, compare_defense
from iqarena.bench.checks.defense import probe_defense
from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS, Entry
from iqarena.defenses.base import DoesNotApply, TrainedDefense
from iqarena.defenses.certified.base import Certificate, CertifiedDefense
from iqarena.defenses.purification.base import Purification, PurifiedModel
from iqarena.models.base import ModelInfo, QualityModel
from tests.support.attack_runs import SEARCHES

# --- attacks


@dataclass(frozen=True)
class Good(Attack):
    """One step along the gradient's sign.

    Attributes:
        length: of the step, as a share of the threat's size.
    """

    name = "good"
    access = "gradient"
    norms = ("linf",)
    paper = "of these tests"

    length: float = 1.0

    @property
    def passes(self):
        return 1, 1

    def run(self, target, images, objective, threat, generator):
        if target.queries_left == 0:
            return images
        _, gradient = target.quality_and_grad(images, objective.loss)
        return self.stay(images - self.length * threat.size * gradient.sign(), images, threat)

    def stay(self, attacked, images, threat):
        return threat.snap(threat.project(attacked, images), images)


def findings(plugin) -> dict[str, tuple[bool, str, str]]:
    looked = probe_attack(plugin) if isinstance(plugin, Attack) else probe_defense(plugin, ("cnniqa",))
    return {f.name: (f.ok, f.measured, f.advice) for f in looked}


def made_of(base, members):
    """A subclass with other members, built with its defaults."""
    own = {"__doc__": "Faulty on purpose.", "__module__": __name__, **members}
    return dataclass(frozen=True)(type("Faulty", (base,), own))()


def faulty(**members):
    """`Good` with other members."""
    return made_of(Good, members)


def too_far(self, attacked, images, threat):
    return images + 1.3 * (attacked - images)


def off_the_grid(self, attacked, images, threat):
    return images + threat.size * 1.001 * (attacked - images).sign()


def unlike_in_company(self, attacked, images, threat):
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
    "mixes the batch": (faulty(stay=unlike_in_company), "batch", "that image"),
    "even sides only": (faulty(run=even_only), "odd sizes", "any height"),
    "no flat images": (faulty(run=divides), "flat images", "variance"),
    "one direction only": (faulty(run=raw_scores), "both directions", "objective.loss"),
    "does nothing": (faulty(run=lambda self, target, images, *_: images), "both directions", "objective.loss"),
}  # fmt: skip


def test_a_good_attack_passes_every_check() -> None:
    assert [name for name, (ok, *_) in findings(Good()).items() if not ok] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_an_attack_is_found_and_the_report_says_what_to_change(fault: str) -> None:
    plugin, name, advice = FAULTS[fault]
    ok, measured, said = findings(plugin)[name]
    assert not ok, measured
    assert measured
    assert advice in said


def test_a_parameter_that_is_not_described_is_found() -> None:
    @dataclass(frozen=True)
    class Silent(Good):
        """Says nothing about its own parameter."""

        extra: float = 0.0

    assert findings(Silent())["docstring"][:2] == (False, "nothing about extra")


def test_a_class_that_can_be_changed_and_one_without_defaults_are_found() -> None:
    @dataclass
    class Loose(Attack):
        """Can be changed, and has to be given something.

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


# --- defenses


@dataclass(frozen=True)
class Fine(Purification):
    """Images as they are."""

    name = "fine"
    paper = "of these tests"

    def purifier(self):
        return lambda images: images * 1.0


class Wrapped(QualityModel):
    """A model with something done to its scores."""

    def __init__(self, model, change) -> None:
        super().__init__()
        self.model, self.change, self.info = model, change, model.info

    def forward(self, images):
        return self.change(self.model(images), images)


def weak(base=Fine, **members):
    """`Fine`, or another base, with other members."""
    return made_of(base, members)


def by(change):
    """A `protect` that does something to the scores."""
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
        weak(purifier=lambda self: lambda x: x.flip(3) + (x - x.flip(3)).detach()), "surrogate: slope", "another function's",
    ),
    "a certificate that does not hold": (certified(certifies(0.0, 0.01)), "certificate", "hold the deployed quality"),
    "a certificate of another shape": (
        certified(lambda self, *_: Certificate(torch.zeros(()), torch.ones(()), 1.0, 1.0)), "certificate", "(N,)",
    ),
    "a loss an image": (recipe(lambda self, model, images, labels, progress: model(images)), "recipe", "scalar"),
    "a loss of nothing": (
        recipe(lambda self, model, images, labels, progress: (images.sum() * 0).requires_grad_()), "recipe", "weights",
    ),
}  # fmt: skip


def test_a_fine_defense_passes_every_check() -> None:
    assert [name for name, (ok, *_) in findings(Fine()).items() if not ok] == []


@pytest.mark.parametrize("weakness", WEAKNESSES)
def test_each_fault_of_a_defense_is_found_and_the_report_says_what_to_change(weakness: str) -> None:
    plugin, name, advice = WEAKNESSES[weakness]
    ok, measured, said = findings(plugin)[name]
    assert not ok, measured
    assert measured
    assert advice in said


def test_a_certificate_that_holds_and_a_recipe_that_learns_pass() -> None:
    assert findings(certified(certifies(-np.inf, np.inf)))["certificate"][0]
    good = recipe(lambda self, model, images, labels, progress: (model(images) - labels).square().mean())
    assert findings(good)["recipe"][0]


# --- the built-ins

LIGHT = {
    **SEARCHES,
    **{
        f"art:{name}": "[max_iter=3]"
        for name in (
            "AutoConjugateGradient", "AutoProjectedGradientDescent", "BasicIterativeMethod",
            "MomentumIterativeMethod", "ProjectedGradientDescent", "RescalingAutoConjugateGradient",
        )
    },
    "art:CarliniLInfMethod": "[amount=0.05]",
    "art:CarliniL2Method": "[max_iter=5,binary_search_steps=2]", "art:ElasticNet": "[max_iter=5,binary_search_steps=2]",
}  # fmt: skip
"""Budgets of other libraries for tests of conduct alone."""

SHORT = {"queries": 60, "steps": 5, "epochs": 1, "restarts": 1, "draws": 4, "certify_draws": 50}
"""What parameters that make an attack or a defense long are cut to."""

ELSEWHERE = {"zhang-dists"}
"""Attacks that need a file; their own tests give it to them."""


def light(plugin):
    """The same with a small budget, an ensemble with small members."""
    cut = {name: min(most, getattr(plugin, name)) for name, most in SHORT.items() if hasattr(plugin, name)}
    if isinstance(plugin, Ensemble):
        members = tuple((light(member), kind) for member, kind in plugin.members)
        return made_of(type(plugin), {"members": members})
    return replace(plugin, **cut)


@pytest.mark.parametrize("name", [name for name in ATTACKS.names() if name not in ELSEWHERE])
def test_every_built_in_attack_passes(name: str) -> None:
    attack = light(ATTACKS.build(name + LIGHT.get(name, "")))
    bad = [f for f in probe_attack(attack) if not f.ok]
    assert not bad, bad


WEIGHTLESS = {"diffpure"}
"""Defenses whose weights are not shipped; their own tests make some."""

ALLOWED = {"randomized-smoothing": {"repeats"}, "denoised-randomized-smoothing": {"repeats"}}
"""What is no fault: a vote of noisy copies mostly comes out the same."""


@pytest.mark.parametrize("name", [name for name in DEFENSES.names() if name not in WEIGHTLESS])
def test_every_built_in_defense_passes(name: str) -> None:
    bad = [f for f in probe_defense(light(DEFENSES.build(name)), ("cnniqa", "resnet-iqa")) if not f.ok]
    assert not [f for f in bad if f.name not in ALLOWED.get(name, ())], bad


# --- the comparison with others


class Sick(QualityModel):
    """Scores as long as it is asked about few enough images; the error is the class's."""

    info = ModelInfo("sick", min_size=1)
    error: Exception = RuntimeError("no\nway")
    most = 0

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        if self.calls > self.most:
            raise self.error
        return self.scale * images.mean(dim=(1, 2, 3))


class Spoilt(Fine):
    """A defense whose model is sick."""

    name = "spoilt"

    def protect(self, model):
        return Wrapped(model, lambda scores, images: 1 / 0)


@pytest.mark.parametrize(
    ("error", "words"),
    [(RuntimeError("no\nway"), "sick: RuntimeError: no way"), (MemoryError("9 GiB"), "9 GiB"), (SystemExit("bye"), "bye")],
)
@pytest.mark.parametrize("most", [0, 1, 3])
def test_a_model_that_raises_in_the_comparison_is_a_reason(monkeypatch, error, words, most) -> None:
    """On clean images, on attacked ones or in between."""
    monkeypatch.setitem(MODELS.entries, "sick", Entry("sick", Sick))
    monkeypatch.setattr(Sick, "error", error)
    monkeypatch.setattr(Sick, "most", most)
    rows, (finding,) = compare_attack("fgsm", ["sick"], 2, ())
    assert (rows, finding.ok) == ([], False)
    assert words in finding.measured
    assert "\n" not in finding.measured


def test_a_model_that_raises_takes_no_other_out_of_the_comparison(monkeypatch) -> None:
    monkeypatch.setitem(MODELS.entries, "sick", Entry("sick", Sick))
    rows, (finding,) = compare_attack("fgsm", ["sick", "cnniqa"], 2, ())
    assert [row["model"] for row in rows] == ["cnniqa"] * 2
    assert finding.ok


def test_a_defense_that_raises_in_the_comparison_is_a_reason(monkeypatch) -> None:
    monkeypatch.setitem(DEFENSES.entries, "spoilt", Entry("spoilt", Spoilt))
    rows, (finding,) = compare_defense("spoilt", ["cnniqa"], 4)
    assert (rows, finding.ok) == ([], False)
    assert finding.measured == "shift cnniqa: ZeroDivisionError: division by zero"
