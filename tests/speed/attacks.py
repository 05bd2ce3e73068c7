"""Speed of the harness' PGD against a bare loop and other libraries, and of CPRL's activation against its backbone."""

from __future__ import annotations

import copy
import shutil
import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from iqarena.attacks.base import Generators
from iqarena.attacks.objective import Objective
from iqarena.attacks.pgd import PGD
from iqarena.attacks.threat import Threat
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.inference.device import Engine
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.target import Target, frozen
from iqarena.bench.suite import Precision
from iqarena.defenses.cprl.activation import SoftRankActivation
from iqarena.defenses.cprl.cprl import CPRL
from iqarena.models.base import QualityModel
from iqarena.models.resnet18_iqa import ResNet18IQA
from tests.speed.rows import Row, in_turns, ratio

EPS, STEP, STEPS, IMAGES = 4 / 255, 1 / 255, 10, 8


def pgd_rows(turns: int) -> Iterator[Row]:
    """Measure the harness' PGD on `resnet-iqa` against the bare loop below."""
    pixels = demo_images()
    plain = load_model("resnet-iqa")
    placed = Engine().place(copy.deepcopy(plain), pixels[0])
    with frozen(plain), frozen(placed):
        times = in_turns(
            [lambda: harness(placed, pixels), lambda: bare_loop(plain, pixels), lambda: bare_loop(placed, pixels)], turns
        )
    size = f"{IMAGES} images of {pixels.shape[3]}×{pixels.shape[2]}, {STEPS} steps, one thread"
    for name, other, note in (
        (
            "PGD of the harness / bare fp32 loop, `resnet-iqa`",
            times[1],
            f"{size}; the loop as it is in the model's own layout",
        ),
        ("the same / the loop on a model laid out by the harness", times[2], "channels last for both"),
    ):
        value, spread = ratio(times[0], other)
        yield Row("pgd", name, value, "×", "≤ 1.03", spread, note)


def library_rows(turns: int) -> Iterator[Row]:
    """Measure other libraries' PGD against the harness' on `resnet18-iqa` at 224², in float32 and on the fast path."""
    pixels = demo_images()[:, :, 80:304, 144:368].contiguous()
    plain = resnet18(pixels)
    placed = Engine().place(copy.deepcopy(plain), pixels[0])
    fast: dict[str, Callable[[], torch.Tensor]] = {
        "float32": lambda: harness(placed, pixels),
        "bfloat16": lambda: harness(placed, pixels, "bfloat16"),
    }
    if shutil.which("g++"):
        compiled = Engine(compile=True).place(copy.deepcopy(plain), pixels[0])
        fast["bfloat16, compiled"] = lambda: harness(compiled, pixels, "bfloat16")
    others = {"torchattacks": torchattacks_pgd(plain, pixels), "ART": art_pgd(plain, pixels)}
    clean = scores(plain, pixels)
    gains = {name: float((scores(plain, attack()) - clean).mean()) for name, attack in {**fast, **others}.items()}
    with frozen(plain):
        times = dict(zip([*fast, *others], in_turns([*fast.values(), *others.values()], turns), strict=True))
    best = min((name for name in fast if name != "float32"), key=lambda name: statistics.median(times[name]))
    for other in others:
        for name in fast:
            value, spread = ratio(times[other], times[name])
            strength = gains[name] / gains[other]
            yield Row(
                "libraries", f"PGD of {other} / PGD of the harness, {name}, `resnet18-iqa` 224²", value, "×",
                "≥ 1.5" if (other, name) == ("torchattacks", best) else "", spread,
                f"both {STEPS} steps; ours reaches {strength:.3f} of its mean gain of {gains[other]:.3f}",
            )  # fmt: skip
            if (other, name) == ("torchattacks", best):
                yield Row("libraries", "strength on that path / torchattacks'", strength, "×", "≥ 0.98", None, "mean gain")


def cprl_rows(turns: int) -> Iterator[Row]:
    """Measure the time of CPRL's activation, forward and backward, as a share of its backbone's."""
    pixels, model, cprl = demo_images(), load_model("resnet-iqa"), CPRL()
    assert isinstance(model, nn.Module)
    backbone: Any = Engine().place(model, pixels[0])
    activation = SoftRankActivation(cprl.keep, cprl.temperature, cprl.sharpness)
    with torch.inference_mode():
        maps = backbone.features(pixels)
    maps = maps.clone()

    def passed(function: Callable[[torch.Tensor], torch.Tensor], at: torch.Tensor) -> None:
        leaf = at.detach().requires_grad_()
        torch.autograd.grad(function(leaf).sum(), leaf)

    with frozen(backbone):
        own, whole = in_turns([lambda: passed(activation, maps), lambda: passed(backbone.features, pixels)], turns)
    value, spread = ratio(own, whole)
    yield Row(
        "pgd", "CPRL's activation / its backbone, `resnet-iqa`", 100 * value, "%", "≤ 5",
        (100 * spread[0], 100 * spread[1]), f"forward and backward, {maps.shape[1]} channels",
    )  # fmt: skip


# --- what is timed


def demo_images() -> torch.Tensor:
    """Return demo images (N, 3, H, W) in [0, 1]."""
    demo = Demo()
    return torch.stack([demo.image(i) for i in demo.spread(IMAGES)]).float() / 255


def resnet18(pixels: torch.Tensor) -> QualityModel:
    """Return `resnet18-iqa` with seeded weights, as none are shipped, and BatchNorm statistics of the images."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = ResNet18IQA()
    with torch.no_grad():
        for _ in range(30):
            model(pixels)
    return model.eval()


def bare_loop(model: QualityModel, images: torch.Tensor) -> torch.Tensor:
    """Run a bare PGD that raises scores, with only the scores before and after around it."""
    scores(model, images)
    attacked = images + torch.empty_like(images).uniform_(-EPS, EPS)
    attacked = attacked.clamp(0, 1)
    for _ in range(STEPS):
        leaf = attacked.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(model.quality(leaf).sum(), leaf)
        attacked = plain_step(leaf.detach(), gradient, images)
    scores(model, attacked)
    return attacked


def plain_step(images: torch.Tensor, gradient: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
    """Return images after a textbook step: along the gradient's sign, projected into the ball around the clean images."""
    moved = images + STEP * gradient.sign()
    moved = clean + (moved - clean).clamp(-EPS, EPS)
    return moved.clamp(0, 1)


def harness(model: QualityModel, images: torch.Tensor, precision: Precision = "float32") -> torch.Tensor:
    """Run PGD as a cell does: with counted passes, on images as they would be stored; return the best iterate."""
    with frozen(model):
        target = Target(model, len(images), "gradient", precision=precision)
        objective = Objective("raise", target.quality(images))
        attack = PGD(steps=STEPS, step_size=STEP / EPS)
        return attack.run(target, images, objective, Threat("linf", EPS), Generators(range(len(images))))


def scores(model: QualityModel, images: torch.Tensor) -> torch.Tensor:
    """Return the qualities (N,) of images as they would be stored."""
    with torch.inference_mode():
        return model.quality((images * 255).round() / 255)


class _Head(nn.Module):
    """Logits [0, −q], whose cross-entropy with the label [−1, 1] is q; `alone`: q as a prediction."""

    def __init__(self, model: QualityModel, alone: bool = False) -> None:
        super().__init__()
        self.model, self.alone = model, alone

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        quality = self.model.quality(images)
        return quality[:, None] if self.alone else torch.stack([torch.zeros_like(quality), -quality], dim=1)


def torchattacks_pgd(model: QualityModel, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return a function that runs torchattacks' PGD on a quality."""
    import torchattacks

    head = _Head(model).eval()
    attack = torchattacks.PGD(head, eps=EPS, alpha=STEP, steps=STEPS)
    labels = torch.tensor([[-1.0, 1.0]]).expand(len(images), -1)

    def run() -> torch.Tensor:
        attacked: torch.Tensor = attack(images, labels)
        return attacked

    return run


def art_pgd(model: QualityModel, images: torch.Tensor) -> Callable[[], torch.Tensor]:
    """Return a function that runs ART's PGD on a quality."""
    from art.attacks.evasion import ProjectedGradientDescent
    from art.estimators.regression.pytorch import PyTorchRegressor

    regressor = PyTorchRegressor(
        _Head(model, alone=True).eval(), loss=lambda predicted, _: predicted.sum(),
        input_shape=tuple(images.shape[1:]), clip_values=(0.0, 1.0), device_type="cpu",
    )  # fmt: skip
    attack = ProjectedGradientDescent(
        regressor,
        norm="inf",
        eps=EPS,
        eps_step=STEP,
        max_iter=STEPS,
        num_random_init=0,  # it requires the number of classes of a regressor, too
        batch_size=len(images),
        verbose=False,
    )
    given, labels = images.numpy(), torch.zeros(len(images), 1).numpy()
    return lambda: torch.from_numpy(attack.generate(given, labels))
