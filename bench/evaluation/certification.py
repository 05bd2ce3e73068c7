"""Certificates of an image set: the worst ranking that they leave open, how wide they are, and whether they were kept."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from scipy import stats

from iqarena.attacks.threat import Threat
from iqarena.bench.inference.isolation import seeded
from iqarena.bench.inference.target import frozen
from iqarena.bench.metrics.weighted import Reals
from iqarena.bench.metrics.worst_order import certified_srocc
from iqarena.defenses.base import DoesNotApply
from iqarena.defenses.certified.base import Certificate, CertifiedDefense
from iqarena.models.base import QualityModel

RADIUS = 0.05
"""In ℓ2, pixels being in [0, 1]: the peers' (DMS-IQA), one for all images and all certified defenses. It is a small one:
on 192×192 pixels a change of 2/255 everywhere is 2.6 long."""
SUSPICIOUS = 1e-3
"""Probability, if certificates are what they say, below which the number of those that were left is held against them."""


def radius_of(threat: Threat) -> float:
    """The ℓ2 radius of the certificates of a cell: the size of its threat model if that is one of ℓ2, else `RADIUS`."""
    return threat.size if threat.norm == "l2" else RADIUS


def certify(
    defense: CertifiedDefense, model: QualityModel, images: Iterable[torch.Tensor], seeds: Iterable[int], radius: float
) -> Certificate:
    """Certificates of stored images (3, H, W) uint8 of any size, one after the other, each with the draws of its seed.

    Raises:
        ValueError, DoesNotApply: from the defense.
    """
    found: list[Certificate] = []
    with frozen(model):
        for image, seed in zip(images, seeds, strict=True):
            with seeded(seed):
                found.append(defense.certify(model, image[None].float() / 255, radius))
    return Certificate(
        torch.cat([one.lower for one in found]),
        torch.cat([one.upper for one in found]),
        radius,
        min(one.confidence for one in found),
    )


@dataclass(frozen=True)
class Certified:
    """The certificates of an image set.

    Attributes:
        certificate: None where they cannot be had.
        facts: what a record says of them: radius, confidence, lower and upper, or the reason why there are none; seconds.
    """

    certificate: Certificate | None
    facts: dict[str, Any]

    def measures(self, images: pd.DataFrame) -> dict[str, float]:
        """See `measure_certificates`, from the rows of a cell; nothing where there are no certificates."""
        if self.certificate is None:
            return {}
        labels, attacked, lengths = (images[c].to_numpy(dtype=np.float64) for c in ("mos", "adv_quality", "l2"))
        return measure_certificates(self.certificate, labels, attacked, lengths)


def certified(
    defense: CertifiedDefense, model: QualityModel, images: Iterable[torch.Tensor], seeds: Iterable[int], radius: float
) -> Certified:
    """As `certify`, with a refusal as a reason."""
    started, found, facts = time.perf_counter(), None, {}
    try:
        found = certify(defense, model, images, seeds, radius)
        facts = {"confidence": found.confidence, "lower": found.lower.tolist(), "upper": found.upper.tolist()}
    except (ValueError, DoesNotApply) as error:
        facts = {"reason": str(error)}
    return Certified(found, {"radius": radius, **facts, "seconds": time.perf_counter() - started})


def measure_certificates(certificate: Certificate, labels: Reals, attacked: Reals, lengths: Reals) -> dict[str, float]:
    """What certificates say of an image set, for its record.

    Args:
        certificate: of n images.
        labels, attacked, lengths: (n,); the last two are the deployed qualities under attack and the ℓ2 length of each
            change, NaN where there is none. Of a longer change than the radius a certificate says nothing.

    Returns:
        By the names of their columns: ``certified_srocc`` (see there), ``certificate_width`` (mean of upper − lower,
        in quality units; infinite where nothing is known of an image), ``certificate_radius``, ``certificate_confidence``
        (that all hold at once, at least: 1 − n (1 − confidence)) and ``certificates_left`` (attacked qualities outside
        their interval, of changes no longer than the radius).
    """
    lower, upper = certificate.lower.numpy(), certificate.upper.numpy()
    attacked = np.where(lengths <= certificate.radius, attacked, np.nan)
    return {
        "certified_srocc": certified_srocc(lower, upper, labels).bound,
        "certificate_width": float(np.mean(upper - lower)) if len(lower) else math.nan,
        "certificate_radius": certificate.radius,
        "certificate_confidence": max(1 - len(lower) * (1 - certificate.confidence), 0.0),
        "certificates_left": float(left(lower, upper, attacked).sum()),
    }


def left(lower: Reals, upper: Reals, qualities: Reals) -> NDArray[np.bool_]:
    """Which qualities are outside their intervals (n,); NaN is outside of none."""
    return np.asarray((qualities < lower) | (qualities > upper))


def unsound(count: int, total: int, confidence: float) -> bool:
    """Whether `count` of `total` certificates that were left are more than their confidence explains."""
    return bool(stats.binom.sf(count - 1, total, 1 - confidence) < SUSPICIOUS)
