"""`art:CLASS`: preprocessors of the Adversarial Robustness Toolbox (Nicolae et al., arXiv 1807.01069) in front of a model.

The deployed filter is the toolbox's own NumPy code. The surrogate of an adaptive attacker has the same values:

    class                  surrogate                                      parameters and their defaults
    FeatureSqueezing       itself, with the gradient of the identity      bit_depth 5
    GaussianAugmentation   itself, with the gradient of the identity      sigma 0.01
    JpegCompression        itself, with the gradient of `jpeg`            quality 50
    SpatialSmoothing       itself, with the gradient of `median-blur`     window_size 3, odd
    TotalVarMin            itself, with the gradient of the identity      prob 0.3, norm 2, lamb 0.5, max_iter 10
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch

from iqarena.defenses.purification.base import Purification, Purifier, straight_through, with_gradient_of
from iqarena.defenses.purification.jpeg import differentiable_jpeg
from iqarena.defenses.purification.median_blur import median_of

_SET_HERE = ("apply_fit", "apply_predict", "augmentation", "channels_first", "clip_values", "ratio", "verbose")
_AUGMENTS = "it augments training images and does not change the images that are scored"
_SOUND = "it is for audio"
_REFUSED = {
    "CutMix": _AUGMENTS,
    "CutMixPyTorch": _AUGMENTS,
    "CutMixTensorFlowV2": _AUGMENTS,
    "Cutout": _AUGMENTS,
    "CutoutPyTorch": _AUGMENTS,
    "CutoutTensorFlowV2": _AUGMENTS,
    "LabelSmoothing": "it changes labels",
    "Mixup": _AUGMENTS,
    "MixupPyTorch": _AUGMENTS,
    "MixupTensorFlowV2": _AUGMENTS,
    "Mp3Compression": _SOUND,
    "Mp3CompressionPyTorch": _SOUND,
    "Resample": _SOUND,
    "PixelDefend": "it needs a PixelCNN trained on the images, which is not available",
    "SpatialSmoothingPyTorch": "it is SpatialSmoothing with other borders",
    "SpatialSmoothingTensorFlowV2": "it is for TensorFlow",
    "ThermometerEncoding": "it expands each channel into many, which no quality model accepts",
    "VideoCompression": "it is for video",
    "VideoCompressionPyTorch": "it is for video",
}
_SMOOTH: dict[str, Callable[[torch.Tensor, Any], torch.Tensor]] = {
    "JpegCompression": lambda images, given: differentiable_jpeg(images, given["quality"]),
    "SpatialSmoothing": lambda images, given: median_of(images, given["window_size"]),
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "FeatureSqueezing": {"bit_depth": 5},
    "JpegCompression": {"quality": 50, "channels_first": True},
    "SpatialSmoothing": {"window_size": 3, "channels_first": True},
    "GaussianAugmentation": {"sigma": 0.01, "augmentation": False, "apply_fit": False, "apply_predict": True},
    "TotalVarMin": {},
}


def _build(variant: str, given: dict[str, Any]) -> Any:
    cls = getattr(importlib.import_module("art.defences.preprocessor"), variant)
    try:
        return cls(clip_values=(0.0, 1.0), **given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"art:{variant}: {' '.join(str(error).split())}") from None


@dataclass(frozen=True)
class _Preprocessor(Purification):
    """Base of the bridged preprocessors.

    Attributes:
        variant: name of the toolbox's class.
        parameters: parameters of its constructor; those determined by the images are set here.
    """

    variant: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.variant not in _DEFAULTS:
            reason = _REFUSED.get(self.variant, f"known are {', '.join(sorted(_DEFAULTS))}")
            raise ValueError(f"art:{self.variant} is not available: {reason}")
        for key in self.parameters:
            if key in _SET_HERE:
                raise ValueError(f"art:{self.variant}: {key} is set by the benchmark; leave it out")
        object.__setattr__(self, "name", f"art:{self.variant}")
        _build(self.variant, self.given)
        if self.given.get("window_size", 1) % 2 == 0:
            raise ValueError(f"art:{self.variant}: window_size {self.given['window_size']} is not odd")

    @property
    def given(self) -> dict[str, Any]:
        """All constructor parameters of the toolbox's class."""
        return _DEFAULTS[self.variant] | self.parameters

    def least(self, inner: int) -> int:
        window: int = self.given.get("window_size", 1)
        return max(inner, window // 2 + 1)

    def purifier(self) -> Purifier:
        return lambda images: self._purified_by(images, _build(self.variant, self.given))

    def stand_in(self) -> Purifier:
        return straight_through(self.purifier())

    def _purified_by(self, images: torch.Tensor, preprocessor: Any) -> torch.Tensor:
        channels_first = self.given.get("channels_first", False)
        pixels = images.detach().clamp(0, 1)
        numbers = (pixels if channels_first else pixels.permute(0, 2, 3, 1)).cpu().numpy()
        state = np.random.get_state()
        try:
            if self.stochastic:  # the toolbox draws from NumPy's stream, while the harness seeds torch's
                np.random.seed(int(torch.randint(2**32, ())))
            purified = torch.from_numpy(np.ascontiguousarray(preprocessor(numbers)[0]))
        finally:
            np.random.set_state(state)
        return (purified if channels_first else purified.permute(0, 3, 1, 2)).to(images)


@dataclass(frozen=True)
class ArtPreprocessor(_Preprocessor):
    """A preprocessor of the Adversarial Robustness Toolbox, with the gradient of the corresponding filter of IQArena."""

    name: ClassVar[str] = "art:"
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "smooth"
    paper: ClassVar[str] = "https://arxiv.org/abs/1807.01069"

    @staticmethod
    def variants() -> list[str]:
        """Return the available classes that have no class of their own here."""
        return sorted(_SMOOTH)

    @staticmethod
    def refused() -> dict[str, str]:
        """Return the toolbox's other preprocessors, with the reason why they are not available."""
        return dict(_REFUSED)

    def stand_in(self) -> Purifier:
        purify = self.purifier()
        return lambda images: with_gradient_of(_SMOOTH[self.variant](images, self.given), purify(images))


@dataclass(frozen=True)
class FeatureSqueezing(_Preprocessor):
    """Bit depth reduction (Xu, Evans, Qi), by the Adversarial Robustness Toolbox."""

    name: ClassVar[str] = "art:FeatureSqueezing"
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "identity"
    paper: ClassVar[str] = "https://arxiv.org/abs/1704.01155"

    variant: str = "FeatureSqueezing"


@dataclass(frozen=True)
class GaussianAugmentation(_Preprocessor):
    """Gaussian noise added by the Adversarial Robustness Toolbox."""

    name: ClassVar[str] = "art:GaussianAugmentation"
    stochastic: ClassVar[bool] = True
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "identity"
    paper: ClassVar[str] = "https://arxiv.org/abs/1807.01069"

    variant: str = "GaussianAugmentation"


@dataclass(frozen=True)
class TotalVarMin(_Preprocessor):
    """Random pixel selection and total variation minimisation (Guo et al.), by the Adversarial Robustness Toolbox."""

    name: ClassVar[str] = "art:TotalVarMin"
    stochastic: ClassVar[bool] = True
    surrogate_kind: ClassVar[Literal["exact", "smooth", "identity"]] = "identity"
    paper: ClassVar[str] = "https://arxiv.org/abs/1711.00117"

    variant: str = "TotalVarMin"
