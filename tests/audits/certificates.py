"""Audit of certificates: random and attacked images inside the radius, scored again by the deployed model.

    python -m tests.audits.certificates

1,000 random and 200 attacked images for each certified defense on small models, and fewer on `resnet-iqa` with its
weights. Half of the random changes and all attacked ones are as long as the radius. The attack is projected gradient
steps through the surrogate, up and down in turn. Exits with 1 if more certificates were violated than their confidence
explains.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.evaluation.certification import outside, unsound
from iqarena.bench.inference.loading import load_model
from iqarena.bench.inference.target import frozen
from iqarena.bench.registry import DEFENSES
from iqarena.defenses.certified.base import CertifiedDefense
from iqarena.defenses.certified.lipschitz import Lipschitz, LipschitzIQA
from iqarena.defenses.certified.randomized import RandomizedSmoothing
from iqarena.defenses.certified.smoothing import Smoothing
from iqarena.models.base import ModelInfo, QualityModel
from tests.support.analytic_models import LinearModel

STEPS = 10


class Bumpy(QualityModel):
    """A small network with random weights and an oscillating quality, steep or gentle."""

    info = ModelInfo("bumpy", min_size=8)

    def __init__(self, seed: int = 0, steep: float = 3.0) -> None:
        super().__init__()
        self.steep = steep
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.layers = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.Flatten(), nn.LazyLinear(1))
            self.layers(torch.zeros(1, 3, 16, 16))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scores: torch.Tensor = 0.5 + 0.6 * torch.sin(self.steep * self.layers(4 * (images - 0.5)).squeeze(1))
        return scores


class Untrained(Lipschitz):
    """The `lipschitz` defense with seeded random weights; its certificate holds for any weights."""

    def protect(self, model: QualityModel) -> QualityModel:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return LipschitzIQA(self.slope, model.info).eval()


@dataclass(frozen=True)
class CertificateCheck:
    """Number of violated certificates out of all; one that abstained cannot be violated."""

    left: int
    total: int
    confidence: float
    width: float
    abstained: int

    @property
    def sound(self) -> bool:
        return not unsound(self.left, self.total, self.confidence)


def check_certificates(
    defense: CertifiedDefense, model: QualityModel, images: torch.Tensor, radius: float, attacked: bool,
    certified_radius: float | None = None,
) -> CertificateCheck:  # fmt: skip
    """Certify images (N, 3, H, W), change them inside the radius, score them with fresh draws, count the violations.

    Draws are the same in every call.

    `certified_radius` plants a fault: the certificates hold for that radius, the changes use `radius`.
    """
    with frozen(model), torch.random.fork_rng():
        torch.manual_seed(0)
        certificate = defense.certify(model, images, certified_radius or radius)
        change = climb(defense, model, images, radius) if attacked else at_random(images, radius)
        with torch.inference_mode():
            qualities = defense.protect(model).quality(images + change).double()
    violated = outside(certificate.lower.numpy(), certificate.upper.numpy(), qualities.numpy())
    widths = certificate.upper - certificate.lower
    # of the whole range and a bin on either side of it
    abstained = int((widths > 1).sum()) if isinstance(defense, RandomizedSmoothing) else 0
    return CertificateCheck(int(violated.sum()), len(images), certificate.confidence, float(widths.mean()), abstained)


def at_random(images: torch.Tensor, radius: float) -> torch.Tensor:
    """Return changes of random direction; every other one is as long as the radius, the rest shorter."""
    lengths = radius * torch.rand(len(images))
    lengths[::2] = radius
    return shortened(torch.randn_like(images) * 1e6, lengths)


def climb(defense: CertifiedDefense, model: QualityModel, images: torch.Tensor, radius: float) -> torch.Tensor:
    """Return changes that raise the quality of every other image and lower that of the rest."""
    surrogate = defense.surrogate(model)
    directions = torch.ones(len(images))
    directions[1::2] = -1
    change = torch.zeros_like(images)
    for _ in range(STEPS):
        with frozen(surrogate), torch.enable_grad():
            leaf = (images + change).requires_grad_()
            (gradient,) = torch.autograd.grad((directions * surrogate.quality(leaf)).sum(), leaf)
        steps = shortened(gradient * 1e12, torch.full((len(images),), radius / 2))
        change = shortened(change + steps, torch.full((len(images),), radius))
    return change


def shortened(change: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Shorten changes (N, …) to at most the given lengths (N,)."""
    # slightly inside, so that float32 rounding does not end outside
    factors = (lengths * (1 - 1e-5) / change.flatten(1).norm(dim=1).clamp(min=1e-12)).clamp(max=1)
    return change * factors.view(-1, 1, 1, 1)


def small(count: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


_SMALL = "confidence=0.99,draws=50,certify_draws=300,batch=300"
_FEW = "confidence=0.99,draws=20,certify_draws=150,batch=150"
CASES: list[tuple[str, CertifiedDefense, QualityModel, float]] = [
    (f"{spec.partition('[')[0]} on {model.info.name}", DEFENSES.build(spec), model, 0.1)  # type: ignore[misc]
    for spec, model in (
        (f"median-smoothing[{_SMALL}]", LinearModel(reach=5.0)),
        (f"median-smoothing[{_SMALL}]", Bumpy()),
        # bins so wide, and a quality so gentle, that votes agree and certificates are more than abstentions
        (f"randomized-smoothing[{_SMALL},bins=3]", LinearModel(reach=5.0)),
        (f"randomized-smoothing[{_SMALL},bins=3]", Bumpy(steep=0.3)),
        (f"denoised-median-smoothing[{_FEW}]", Bumpy()),
        (f"denoised-randomized-smoothing[{_FEW},bins=3]", Bumpy(steep=0.3)),
    )
]
CASES.append(("lipschitz", Untrained(slope=200.0), LinearModel(), 0.5))


def main() -> int:
    resnet = load_model("resnet-iqa")
    demo = torch.stack([Demo().image(i) for i in range(0, 160, 20)]).float() / 255
    print("| defense | images | abstained | left | confidence | mean width | |\n|---|---|--:|--:|--:|--:|---|")
    fine = True
    for label, defense, model, radius in CASES:
        for attacked, images in ((False, small(1000, 1)), (True, small(200, 2))):
            fine &= report(label, check_certificates(defense, model, images, radius, attacked), attacked)
    for name in ("median-smoothing", "denoised-median-smoothing", "randomized-smoothing", "denoised-randomized-smoothing"):
        smoothing = DEFENSES.build(name)
        assert isinstance(smoothing, Smoothing)
        for attacked in (False, True):
            kept = check_certificates(
                replace(smoothing, draws=20, certify_draws=120, batch=10), resnet, demo, 0.05, attacked
            )
            fine &= report(f"{name} on resnet-iqa", kept, attacked)
    return 0 if fine else 1


def report(name: str, kept: CertificateCheck, attacked: bool) -> bool:
    verdict = "" if kept.sound else "**MORE THAN THE CONFIDENCE EXPLAINS**"
    kind = "attacked" if attacked else "random"
    columns = (
        name,
        f"{kept.total} {kind}",
        kept.abstained,
        kept.left,
        f"{kept.confidence:g}",
        f"{kept.width:.3f}",
        verdict,
    )
    print("|", " | ".join(map(str, columns)), "|", flush=True)
    return kept.sound


if __name__ == "__main__":
    np.seterr(all="raise")
    sys.exit(main())
