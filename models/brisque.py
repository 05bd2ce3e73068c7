"""`brisque`: support vector regression on natural scene statistics (Mittal, Moorthy, Bovik, TIP 2012)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from iqarena.models.base import FittedModel, ModelInfo
from iqarena.models.nss import ALPHA_MAX, fit_aggd, fit_ggd, halved, luma, mean_of, mscn, neighbour_products

_FEATURES = 36

COST, WIDTH, TUBE = 16.0, 0.2, 0.05
"""C, γ and ε of the regression, selected on the validation split of the training images."""


class BRISQUE(FittedModel):
    """36 statistics of the contrast-normalised luma and of products of neighbours, at two scales, and a Gaussian kernel.

    It has no gradient, like the published programs, although its statistics are differentiable: cells with gradient attacks
    are skipped, and score-only attacks work. Raw score in about [0, 1]. The weights are scikit-learn's support vectors.
    """

    info = ModelInfo("brisque", differentiable=False, licence="MIT", paper="https://doi.org/10.1109/TIP.2012.2214050")
    in_zoo = True
    most_images = 6000  # the size of the weights and the fitting time grow with it

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("low", torch.zeros(_FEATURES))
        self.register_buffer("high", torch.full((_FEATURES,), ALPHA_MAX))
        self.register_buffer("vectors", torch.rand(8, _FEATURES) * 2 - 1)
        self.register_buffer("coefficients", COST * (2 * torch.rand(8) - 1))
        self.register_buffer("width", torch.tensor(WIDTH))
        self.register_buffer("offset", torch.tensor(0.5))
        self.low: torch.Tensor
        self.high: torch.Tensor
        self.vectors: torch.Tensor
        self.coefficients: torch.Tensor
        self.width: torch.Tensor
        self.offset: torch.Tensor

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name in ("vectors", "coefficients"):  # their number depends on the fit
            if isinstance(value := state.get(prefix + name), torch.Tensor) and value.ndim == getattr(self, name).ndim:
                setattr(self, name, torch.empty_like(value))
        super()._load_from_state_dict(state, prefix, *rest)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        scaled = self._scaled(features(images))
        apart = torch.cdist(scaled, self.vectors.double(), compute_mode="donot_use_mm_for_euclid_dist")
        # thousands of terms that nearly cancel: float32 is not enough
        scores: torch.Tensor = torch.exp(-self.width * apart**2) @ self.coefficients.double() + self.offset
        return scores.to(images.dtype)

    def _scaled(self, values: torch.Tensor) -> torch.Tensor:
        """Scale features (N, 36) so that those of the training set range from −1 to 1."""
        return 2 * (values - self.low) / (self.high - self.low) - 1

    @torch.no_grad()
    def fit(self, images: Iterable[tuple[torch.Tensor, float]]) -> dict[str, float | int | str]:
        from sklearn.svm import SVR

        rows = [(features(image[None]), label) for image, label in images]
        table = torch.cat([row for row, _ in rows])
        self.low, self.high = table.amin(dim=0).float(), table.amax(dim=0).float()
        regression = SVR(C=COST, gamma=WIDTH, epsilon=TUBE, cache_size=500)
        regression.fit(self._scaled(table).numpy(), [label for _, label in rows])
        self.vectors = torch.from_numpy(regression.support_vectors_).float()
        self.coefficients = torch.from_numpy(regression.dual_coef_[0]).float()
        self.width, self.offset = torch.tensor(WIDTH), torch.tensor(float(regression.intercept_[0]))
        return {"support_vectors": len(self.vectors), "C": COST, "gamma": WIDTH, "epsilon": TUBE}


def features(images: torch.Tensor) -> torch.Tensor:
    """Compute the statistics (N, 36) of images (N, 3, H, W) in [0, 1]."""
    gray = luma(images)
    return torch.cat([_features(gray), _features(halved(gray))], dim=1)


def _features(gray: torch.Tensor) -> torch.Tensor:
    """Compute the 18 features of each luma (N, 1, H, W)."""
    values = mscn(gray)[0].squeeze(1)
    statistics = list(fit_ggd(values))
    for product in neighbour_products(values):
        alpha, below, above = fit_aggd(product)
        statistics += [alpha, mean_of(alpha, below, above), below**2, above**2]
    return torch.stack(statistics, dim=1)
