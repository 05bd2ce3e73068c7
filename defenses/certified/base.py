"""What a certificate is here: an interval of quality that no change up to a given ℓ2 length leaves."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from iqarena.defenses.base import Defense, Kind
from iqarena.models.base import QualityModel


@dataclass(frozen=True)
class Certificate:
    """The one scale on which all certified defenses answer.

    Attributes:
        lower, upper: (N,) qualities; the deployed model's quality of image i stays in [lower, upper] whatever the change.
            ∓∞ where nothing is known.
        radius: Euclidean length of the change of the whole image, pixels being in [0, 1].
        confidence: probability, over the draws of the certificate and of the score, that this holds for one image, and
            for every change that was chosen without knowing the draws of its score; 1 is a proof.
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
        """The interval of the deployed quality of each image.

        Random draws come from torch's global stream, image after image.

        Args:
            model: the undefended model, as in `protect`.
            images: (N, 3, H, W) in [0, 1].
            radius: ℓ2 length, above 0.

        Raises:
            ValueError: for a radius that is not above 0, or that the parameters cannot certify at all.
            DoesNotApply: where the defense does not fit the model.
        """


def checked_radius(name: str, radius: float) -> float:
    """A radius above 0.

    Raises:
        ValueError: for any other.
    """
    if not 0 < radius < float("inf"):
        raise ValueError(f"{name}: radius {radius:g} is not above 0; give an ℓ2 length, pixels being in [0, 1]")
    return radius
