"""TID2013's distortions, as far as they are known in all parameters, or up to the noise sample.

The paper names the types. Parameters are those that agree with the values published for every image of TID2013 in
``metrics_values/PSNR.txt``, ``PSNRc.txt``, ``SSIM.txt``, ``FSIM.txt`` and ``FSIMc.txt`` of release 1.0:
docs/tid2013-reconstructed.md. Some types have fixed strengths; others are tuned, image by image, to a ladder of PSNR over
all colour samples.
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from scipy import ndimage
from scipy.optimize import brentq
from skimage.color import rgb2ycbcr, ycbcr2rgb

Pixels = NDArray[np.uint8]
Reals = NDArray[np.float64]
Stream = np.random.RandomState

LADDER = (33.0, 30.0, 27.0, 24.0, 21.0)
"""PSNR in dB of levels 1 to 5."""

CLOSE = 0.02
"""Precision of the tuning in dB, where strengths are not whole numbers."""

_ABERRATION_LADDER = (33.0, 28.0, 25.0, 23.0, 21.0)
"""Means of PSNRc.txt over all references, for the only tuned type that is not on the common ladder."""


def psnr(a: Pixels, b: Pixels) -> float:
    """Compute the PSNR of two images over all samples of all colours, in dB; infinite for equal images."""
    error = float(((a.astype(np.float64) - b) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


@dataclass(frozen=True)
class Distortion:
    """One distortion type of TID2013.

    Attributes:
        number: its number in TID2013.
        name: its name in TID2013, shortened.
        distort: function of an image, a strength and a random stream that returns the distorted image.
        strengths: strengths of levels 1 to 5, the same for all images; if empty, strengths are tuned to `ladder`.
        ladder: PSNR in dB of levels 1 to 5, to which strengths are tuned.
        reach: the mildest and the severest strength that the tuning tries.
        whole: whether strengths are whole numbers.
    """

    number: int
    name: str
    distort: Callable[[Pixels, float, Stream], Pixels]
    strengths: tuple[float, ...] = ()
    ladder: tuple[float, ...] = LADDER
    reach: tuple[float, float] = (0.0, 0.0)
    whole: bool = False

    def apply(self, image: Pixels, level: int, name: str) -> Pixels:
        """Distort an image (H, W, 3) at a level from 1 to 5; its random numbers depend only on `name`."""
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")

        def distorted(strength: float) -> Pixels:
            return self.distort(image, strength, np.random.RandomState(seed))

        if self.strengths:
            return distorted(self.strengths[level - 1])
        return self._tune(image, self.ladder[level - 1], distorted)

    def _tune(self, image: Pixels, target: float, distorted: Callable[[float], Pixels]) -> Pixels:
        """Search over the logarithm of the strength, and return the image tried whose PSNR is closest to the target."""
        tried: list[tuple[float, Pixels]] = []

        @functools.cache
        def excess(strength: float) -> float:
            result = distorted(strength)
            tried.append((min(psnr(result, image), 100.0) - target, result))
            return tried[-1][0]

        def excess_at(logarithm: float) -> float:
            return excess(round(math.exp(logarithm)) if self.whole else math.exp(logarithm))

        mild, severe = map(math.log, self.reach)
        if excess_at(mild) > 0 > excess_at(severe):
            # where the error is proportional to the strength, PSNR falls by 20 dB per decade
            brentq(excess_at, mild, severe, xtol=CLOSE * math.log(10) / 20)
        return min(tried, key=lambda pair: abs(pair[0]))[1]


def _store(values: Reals) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _through_codec(image: Pixels, codec: str, **options: object) -> Pixels:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, codec, **options)
    with Image.open(stored) as decoded:
        return np.asarray(decoded.convert("RGB"))


def _neighbourhood_mean(noise: Reals) -> Reals:
    """Compute the mean over the 3×3 pixels around each pixel."""
    means: Reals = ndimage.uniform_filter(noise, (3, 3, 1), mode="wrap")
    return means


def additive_noise(image: Pixels, variance: float, stream: Stream) -> Pixels:
    """Add white Gaussian noise, independent in R, G and B."""
    return _store(image + math.sqrt(variance) * stream.normal(size=image.shape))


def color_noise(image: Pixels, variance: float, stream: Stream) -> Pixels:
    """Add white noise with this variance in the luminance, and 4.1 times this variance in Cb and Cr.

    YCbCr is that of Rec. 601, in digital values. The factor 4.1 is the mean ratio that follows from PSNR.txt, of the
    luminance, and PSNRc.txt, of all colours.
    """
    noise = stream.normal(size=image.shape) * np.sqrt(variance * np.array([1, 4.1, 4.1]))
    return _store(255 * ycbcr2rgb(rgb2ycbcr(image) + noise))


def correlated_noise(image: Pixels, variance: float, stream: Stream) -> Pixels:
    """Add white noise that was averaged over 3×3 pixels, with this variance after averaging."""
    # the mean of nine samples has a third of their standard deviation
    return _store(image + 3 * math.sqrt(variance) * _neighbourhood_mean(stream.normal(size=image.shape)))


def high_frequency_noise(image: Pixels, variance: float, stream: Stream) -> Pixels:
    """Add white noise minus its mean over 3×3 pixels, with this variance after subtraction."""
    white = stream.normal(size=image.shape)
    # the remaining variance is 8/9² + (8/9)² = 8/9
    return _store(image + math.sqrt(variance * 9 / 8) * (white - _neighbourhood_mean(white)))


def impulse_noise(image: Pixels, share: float, stream: Stream) -> Pixels:
    """Replace a share of the samples, independently in R, G and B, with values drawn uniformly from 0 to 255."""
    hit = stream.uniform(size=image.shape) < share
    return np.where(hit, stream.randint(0, 256, image.shape), image).astype(np.uint8)


def pixel_impulse_noise(image: Pixels, share: float, stream: Stream) -> Pixels:
    """Replace a share of the pixels: all three samples of a pixel get values drawn uniformly from 0 to 255."""
    hit = stream.uniform(size=image.shape[:2]) < share
    return np.where(hit[..., None], stream.randint(0, 256, image.shape), image).astype(np.uint8)


def quantization(image: Pixels, step: float, stream: Stream) -> Pixels:
    """Round samples to multiples of a step."""
    return _store(np.rint(image / step) * step)


def gaussian_blur(image: Pixels, sigma: float, stream: Stream) -> Pixels:
    """Blur with a Gaussian kernel of 11×11 pixels and zero padding."""
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    blurred = image.astype(np.float64)
    for axis in (0, 1):
        blurred = ndimage.correlate1d(blurred, kernel, axis, mode="constant")
    return _store(blurred)


@functools.cache
def _annex_k() -> list[list[int]]:
    """Return the quantization tables of annex K of the JPEG standard, which quality 50 uses."""
    stored = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stored, "JPEG", quality=50)
    with Image.open(stored) as decoded:
        assert isinstance(decoded, JpegImageFile)
        return [list(decoded.quantization[table]) for table in (0, 1)]


def jpeg(image: Pixels, quality: float, stream: Stream) -> Pixels:
    """Compress with JPEG, without the baseline limit of 255 on quantization steps, which TID2013 did not observe."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = [[max(1, int(step * percent + 50) // 100) for step in table] for table in _annex_k()]
    return _through_codec(image, "JPEG", qtables=tables, subsampling="4:2:0", progressive=True)  # the same pixels


def jpeg2000(image: Pixels, ratio: float, stream: Stream) -> Pixels:
    return _through_codec(image, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


def mean_shift(image: Pixels, shift: float, stream: Stream) -> Pixels:
    return _store(image.astype(np.float64) + shift)


def contrast(image: Pixels, factor: float, stream: Stream) -> Pixels:
    """Scale the contrast around the mean of all samples of all colours."""
    mean = image.mean()
    return _store(mean + factor * (image - mean))


def saturation(image: Pixels, loss: float, stream: Stream) -> Pixels:
    """Reduce Cb and Cr by this share and keep the luminance; more than 1 turns colours into their complements."""
    values = rgb2ycbcr(image)
    values[..., 0] = np.rint(values[..., 0])  # a whole luminance survives the conversion to 8-bit RGB, as in TID2013
    values[..., 1:] = 128 + (1 - loss) * (values[..., 1:] - 128)
    return _store(255 * ycbcr2rgb(values))


def multiplicative_noise(image: Pixels, sigma: float, stream: Stream) -> Pixels:
    """Multiply samples by 1 + white Gaussian noise, independent in R, G and B."""
    return _store(image * (1 + sigma * stream.normal(size=image.shape)))


def palette(image: Pixels, colors: float, stream: Stream) -> Pixels:
    """Reduce the image to a palette of `colors` colours chosen for it, with Floyd–Steinberg dithering."""
    opened = Image.fromarray(image)
    chosen = opened.quantize(round(colors), method=Image.Quantize.MEDIANCUT, kmeans=1)
    return np.asarray(opened.quantize(palette=chosen, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB"))


def aberration(image: Pixels, pixels: float, stream: Stream) -> Pixels:
    """Shift red to the right and blue to the left, also by fractions of a pixel (linear interpolation)."""
    values = image.astype(np.float64)
    for channel, shift in ((0, pixels), (2, -pixels)):
        values[..., channel] = ndimage.shift(values[..., channel], (0, shift), order=1, mode="nearest")
    return _store(values)


_IMPULSES = (0.004, 0.0086, 0.0172, 0.0343, 0.0686)

DISTORTIONS: tuple[Distortion, ...] = (
    Distortion(1, "additive Gaussian noise", additive_noise, (32, 64, 130, 260, 520)),
    Distortion(2, "noise more intensive in colour", color_noise, (2.67, 5.33, 10.8, 21.5, 43.3)),
    Distortion(3, "spatially correlated noise", correlated_noise, (32, 64, 130, 260, 520)),
    Distortion(5, "high-frequency noise", high_frequency_noise, (32.6, 65.1, 206.6, 665, 2240)),
    Distortion(6, "impulse noise", impulse_noise, _IMPULSES),
    Distortion(7, "quantization noise", quantization, (19, 27, 39, 55, 76)),
    Distortion(8, "Gaussian blur", gaussian_blur, (0.5, 0.65, 1.0, 1.7, 4.0)),
    Distortion(10, "JPEG", jpeg, (80, 60, 23, 8, 4)),
    Distortion(11, "JPEG 2000", jpeg2000, reach=(1.5, 5000)),
    Distortion(16, "mean shift", mean_shift, (-6, 10, -20, 30, -40)),
    Distortion(17, "contrast change", contrast, (0.9, 1.2, 0.75, 1.45, 0.5)),
    Distortion(18, "colour saturation", saturation, reach=(0.02, 20)),
    Distortion(19, "multiplicative noise", multiplicative_noise, reach=(0.005, 3)),
    Distortion(22, "colour quantization with dither", palette, reach=(256, 2), whole=True),
    Distortion(23, "chromatic aberrations", aberration, ladder=_ABERRATION_LADDER, reach=(0.1, 4)),
)
"""The distortion types that are reproduced, in TID2013's order."""

PIXEL_IMPULSES = Distortion(6, "impulse noise", pixel_impulse_noise, _IMPULSES)
"""Type 6 at levels 2 to 5 of references with an even number: there PSNR.txt is as close to PSNRc.txt as only impulses on
shared pixels make it (2.2 to 4.4 dB, computed for each image, instead of 4.7 to 5.3)."""
