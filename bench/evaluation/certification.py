"""Certificates of an image set: the worst ranking that they allow, their width, and whether attacks violate them."""

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
"""Radius of certificates in ℓ2, for pixels in [0, 1]; the same for all images and all certified defenses, as in DMS-IQA.

It is small: on 192×192 pixels a perturbation of 2/255 everywhere has the ℓ2 norm 2.6."""
SUSPICIOUS = 1e-3
"""Significance level: with sound certificates, so many violations or more have at most this probability."""


def radius_of(threat: Threat) -> float:
    """Return the ℓ2 radius of the certificates of a cell: the size of its threat model if its norm is ℓ2, else `RADIUS`."""
    return threat.size if threat.norm == "l2" else RADIUS


def certify(
    defense: CertifiedDefense, model: QualityModel, images: Iterable[torch.Tensor], seeds: Iterable[int], radius: float
) -> Certificate:
    """Certify stored images (3, H, W) uint8 of any size, one after the other, each under its own seed.

    Raises:
        ValueError, DoesNotApply: from the defense.
    """
    certificates: list[Certificate] = []
    with frozen(model):
        for image, seed in zip(images, seeds, strict=True):
            with seeded(seed):
                certificates.append(defense.certify(model, image[None].float() / 255, radius))
    return Certificate(
        torch.cat([certificate.lower for certificate in certificates]),
        torch.cat([certificate.upper for certificate in certificates]),
        radius,
        min(certificate.confidence for certificate in certificates),
    )


@dataclass(frozen=True)
class Certified:
    """The certificates of an image set.

    Attributes:
        certificate: None if they cannot be computed.
        facts: entries of the record: radius, confidence, lower and upper, or the reason why there are none; seconds.
    """

    certificate: Certificate | None
    facts: dict[str, Any]

    def measures(self, images: pd.DataFrame) -> dict[str, float]:
        """Compute `measure_certificates` from the rows of a cell; empty if there are no certificates."""
        if self.certificate is None:
            return {}
        labels, attacked, lengths = (images[c].to_numpy(dtype=np.float64) for c in ("mos", "adv_quality", "l2"))
        return measure_certificates(self.certificate, labels, attacked, lengths)


def certified(
    defense: CertifiedDefense, model: QualityModel, images: Iterable[torch.Tensor], seeds: Iterable[int], radius: float
) -> Certified:
    """Certify images as `certify` does; if the defense refuses, the result has the reason instead of certificates."""
    started, result, facts = time.perf_counter(), None, {}
    try:
        result = certify(defense, model, images, seeds, radius)
        facts = {"confidence": result.confidence, "lower": result.lower.tolist(), "upper": result.upper.tolist()}
    except (ValueError, DoesNotApply) as error:
        facts = {"reason": str(error)}
    return Certified(result, {"radius": radius, **facts, "seconds": time.perf_counter() - started})


def measure_certificates(certificate: Certificate, labels: Reals, attacked: Reals, lengths: Reals) -> dict[str, float]:
    """Compute the certified measures of an image set, for its record.

    Args:
        certificate: certificates of n images.
        labels, attacked, lengths: (n,); the last two are the deployed qualities under attack and the ℓ2 norm of each
            perturbation, NaN if there is none. A certificate covers no perturbation larger than its radius.

    Returns:
        The measures by the names of their columns: ``certified_srocc`` (see there), ``certificate_width`` (mean of upper −
        lower, in quality units; infinite if any image has no bound), ``certificate_radius``, ``certificate_confidence``
        (a lower bound on the probability that all certificates hold at once: 1 − n (1 − confidence)) and
        ``certificates_left`` (number of attacked qualities outside their interval, for perturbations within the radius).
    """
    lower, upper = certificate.lower.numpy(), certificate.upper.numpy()
    attacked = np.where(lengths <= certificate.radius, attacked, np.nan)
    return {
        "certified_srocc": certified_srocc(lower, upper, labels).bound,
        "certificate_width": float(np.mean(upper - lower)) if len(lower) else math.nan,
        "certificate_radius": certificate.radius,
        "certificate_confidence": max(1 - len(lower) * (1 - certificate.confidence), 0.0),
        "certificates_left": float(outside(lower, upper, attacked).sum()),
    }


def outside(lower: Reals, upper: Reals, qualities: Reals) -> NDArray[np.bool_]:
    """Check for each quality whether it is outside its interval (n,); NaN is not."""
    return np.asarray((qualities < lower) | (qualities > upper))


def unsound(count: int, total: int, confidence: float) -> bool:
    """Check whether `count` violations among `total` certificates are more than their confidence explains."""
    return bool(stats.binom.sf(count - 1, total, 1 - confidence) < SUSPICIOUS)
