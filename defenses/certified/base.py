"""Certificates: intervals of quality that no perturbation up to a given ℓ2 norm can leave."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.base import Defense, Kind
from iqarena.models.base import QualityModel


@dataclass(frozen=True)
class Certificate:
    """The certificate of a batch of images, common to all certified defenses.

    Attributes:
        lower, upper: (N,) qualities; the deployed model's quality of image i stays in [lower, upper] under every
            perturbation within the radius. ∓∞ if nothing is certified.
        radius: Euclidean norm of the perturbation of the whole image, with pixels in [0, 1].
        confidence: probability, over the draws of the certificate and of the score, that this holds for one image, for
            every perturbation chosen without knowledge of the draws of its score; 1 is a proof.
    """

    lower: torch.Tensor
    upper: torch.Tensor
    radius: float
    confidence: float


class CertifiedDefense(Defense):
    """A defense that comes with certificates."""

    kind: ClassVar[Kind] = "certified"

    @abstractmethod
    def certify(self, model: QualityModel, images: torch.Tensor, radius: float) -> Certificate:
        """Certify an interval of the deployed quality of each image.

        Random draws come from torch's global stream, image after image.

        Args:
            model: the undefended model, as in `protect`.
            images: (N, 3, H, W) in [0, 1].
            radius: ℓ2 norm, above 0.

        Raises:
            ValueError: for a radius that is not above 0, or that the parameters cannot certify at all.
            DoesNotApply: if the defense does not apply to the model.
        """


def checked_radius(name: str, radius: float) -> float:
    """Return the radius after checking that it is finite and above 0.

    Raises:
        ValueError: if it is not.
    """
    if not 0 < radius < float("inf"):
        raise ValueError(f"{name}: radius {radius:g} is not above 0; give an ℓ2 norm, with pixels in [0, 1]")
    return radius
