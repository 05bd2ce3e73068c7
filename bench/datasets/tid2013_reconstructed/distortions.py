"""TID2013's distortions, as far as their definition is known to the last parameter or up to the draw of the noise.

The paper names the types. Parameters are what TID2013 publishes with every image, ``metrics_values/PSNR.txt``,
``PSNRc.txt``, ``SSIM.txt``, ``FSIM.txt`` and ``FSIMc.txt`` of its release 1.0, leaves open: docs/tid2013-reconstructed.md.
Some types have fixed strengths and some are tuned, image by image, to a ladder of PSNR over all colour samples.
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
"""dB. Tuning is as exact as this where strengths are not whole numbers."""

_ABERRATION_LADDER = (33.0, 28.0, 25.0, 23.0, 21.0)
"""The means of PSNRc.txt over all references: the one tuned type that is not on the common ladder."""


def psnr(one: Pixels, other: Pixels) -> float:
    """Over all samples of all colours, in dB; infinite for equal images."""
    error = float(((one.astype(np.float64) - other) ** 2).mean())
    return 10 * math.log10(255**2 / error) if error else math.inf


@dataclass(frozen=True)
class Distortion:
    """One type of TID2013.

    Attributes:
        number: TID2013's.
        name: TID2013's, shortened.
        distort: makes an image of an image, a strength and a random stream.
        strengths: of levels 1 to 5, the same for all images; or, where empty,
        ladder: their PSNR in dB, which the strength is tuned to, and
        reach: the mildest and the severest strength to be tried.
        whole: strengths are whole numbers.
    """

    number: int
    name: str
    distort: Callable[[Pixels, float, Stream], Pixels]
    strengths: tuple[float, ...] = ()
    ladder: tuple[float, ...] = LADDER
    reach: tuple[float, float] = (0.0, 0.0)
    whole: bool = False

    def apply(self, image: Pixels, level: int, name: str) -> Pixels:
        """The image (H, W, 3) distorted at a level from 1 to 5; anything random in it depends on `name` alone."""
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")

        def made(strength: float) -> Pixels:
            return self.distort(image, strength, np.random.RandomState(seed))

        if self.strengths:
            return made(self.strengths[level - 1])
        return self._tuned(image, self.ladder[level - 1], made)

    def _tuned(self, image: Pixels, wanted: float, made: Callable[[float], Pixels]) -> Pixels:
        """The nearest to a PSNR of all that a search over the logarithm of the strength comes across."""
        found: list[tuple[float, Pixels]] = []

        @functools.cache
        def above(strength: float) -> float:
            tried = made(strength)
            found.append((min(psnr(tried, image), 100.0) - wanted, tried))
            return found[-1][0]

        def at(logarithm: float) -> float:
            return above(round(math.exp(logarithm)) if self.whole else math.exp(logarithm))

        mild, severe = map(math.log, self.reach)
        if at(mild) > 0 > at(severe):
            brentq(
                at, mild, severe, xtol=CLOSE * math.log(10) / 20
            )  # an error that grows with the strength falls 20 dB a decade
        return min(found, key=lambda one: abs(one[0]))[1]


def _store(values: Reals) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _through_codec(image: Pixels, codec: str, **options: object) -> Pixels:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, codec, **options)
    with Image.open(stored) as decoded:
        return np.asarray(decoded.convert("RGB"))


def _neighbourhood(noise: Reals) -> Reals:
    """Mean of the 3×3 pixels around each one."""
    means: Reals = ndimage.uniform_filter(noise, (3, 3, 1), mode="wrap")
    return means


def additive_noise(image: Pixels, variance: float, stream: Stream) -> Pixels:
    """White Gaussian noise, independent in R, G and B."""
    return _store(image + math.sqrt(variance) * stream.normal(size=image.shape))


def color_noise(image: Pixels, variance: float, stream: Stream) -> Pixels:
    """White noise of this variance in the luminance and 4.1 times that in Cb and Cr, in Rec. 601's digital values.

    4.1 is the mean ratio that PSNR.txt, of the luminance, and PSNRc.txt leave.
    """
    noise = stream.normal(size=image.shape) * np.sqrt(variance * np.array([1, 4.1, 4.1]))
    return _store(255 * ycbcr2rgb(rgb2ycbcr(image) + noise))


def correlated_noise(image: Pixels, variance: float, stream: Stream) -> Pixels:
    """White noise averaged over 3×3 pixels, this variance thereafter."""
    # a mean of nine has a third of the deviation
    return _store(image + 3 * math.sqrt(variance) * _neighbourhood(stream.normal(size=image.shape)))


def high_frequency_noise(image: Pixels, variance: float, stream: Stream) -> Pixels:
    """White noise without its mean over 3×3 pixels, this variance thereafter."""
    white = stream.normal(size=image.shape)
    # the variance that is left is 8/9² + (8/9)² = 8/9
    return _store(image + math.sqrt(variance * 9 / 8) * (white - _neighbourhood(white)))


def impulse_noise(image: Pixels, share: float, stream: Stream) -> Pixels:
    """A share of the samples, independently in R, G and B, is replaced by values drawn evenly from 0 to 255."""
    hit = stream.uniform(size=image.shape) < share
    return np.where(hit, stream.randint(0, 256, image.shape), image).astype(np.uint8)


def pixel_impulse_noise(image: Pixels, share: float, stream: Stream) -> Pixels:
    """As `impulse_noise`, but it is pixels that are hit: all three samples are replaced, by values of their own."""
    hit = stream.uniform(size=image.shape[:2]) < share
    return np.where(hit[..., None], stream.randint(0, 256, image.shape), image).astype(np.uint8)


def quantization(image: Pixels, step: float, stream: Stream) -> Pixels:
    """Samples rounded to multiples of a step."""
    return _store(np.rint(image / step) * step)


def gaussian_blur(image: Pixels, sigma: float, stream: Stream) -> Pixels:
    """A Gaussian kernel of 11×11 pixels, black around the image."""
    kernel = np.exp(-(np.arange(-5, 6) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    blurred = image.astype(np.float64)
    for axis in (0, 1):
        blurred = ndimage.correlate1d(blurred, kernel, axis, mode="constant")
    return _store(blurred)


@functools.cache
def _annex_k() -> list[list[int]]:
    """The quantization tables of the JPEG standard's annex K, which quality 50 stands for."""
    stored = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stored, "JPEG", quality=50)
    with Image.open(stored) as decoded:
        assert isinstance(decoded, JpegImageFile)
        return [list(decoded.quantization[table]) for table in (0, 1)]


def jpeg(image: Pixels, quality: float, stream: Stream) -> Pixels:
    """Baseline's limit of 255 on quantization steps, which `quality` alone would keep, was not kept in TID2013."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    tables = [[max(1, int(step * percent + 50) // 100) for step in table] for table in _annex_k()]
    return _through_codec(image, "JPEG", qtables=tables, subsampling="4:2:0", progressive=True)  # the same pixels


def jpeg2000(image: Pixels, ratio: float, stream: Stream) -> Pixels:
    return _through_codec(image, "JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)


def mean_shift(image: Pixels, shift: float, stream: Stream) -> Pixels:
    return _store(image.astype(np.float64) + shift)


def contrast(image: Pixels, factor: float, stream: Stream) -> Pixels:
    """Stretched around the mean of all samples of all colours."""
    mean = image.mean()
    return _store(mean + factor * (image - mean))


def saturation(image: Pixels, loss: float, stream: Stream) -> Pixels:
    """Cb and Cr lose this part of themselves; more than 1 turns colours into their complements. The luminance stays."""
    values = rgb2ycbcr(image)
    values[..., 0] = np.rint(values[..., 0])  # whole, it survives the way to 8-bit RGB and back, as it does in TID2013
    values[..., 1:] = 128 + (1 - loss) * (values[..., 1:] - 128)
    return _store(255 * ycbcr2rgb(values))


def multiplicative_noise(image: Pixels, sigma: float, stream: Stream) -> Pixels:
    """Samples times 1 + white Gaussian noise, independent in R, G and B."""
    return _store(image * (1 + sigma * stream.normal(size=image.shape)))


def palette(image: Pixels, colors: float, stream: Stream) -> Pixels:
    """So many colours, chosen for the image, with Floyd–Steinberg dither."""
    opened = Image.fromarray(image)
    chosen = opened.quantize(round(colors), method=Image.Quantize.MEDIANCUT, kmeans=1)
    return np.asarray(opened.quantize(palette=chosen, dither=Image.Dither.FLOYDSTEINBERG).convert("RGB"))


def aberration(image: Pixels, pixels: float, stream: Stream) -> Pixels:
    """Red moved to the right and blue to the left, by a part of a pixel too (linear interpolation)."""
    values = image.astype(np.float64)
    for channel, way in ((0, pixels), (2, -pixels)):
        values[..., channel] = ndimage.shift(values[..., channel], (0, way), order=1, mode="nearest")
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
"""What is reproduced, in TID2013's order."""

PIXEL_IMPULSES = Distortion(6, "impulse noise", pixel_impulse_noise, _IMPULSES)
"""What type 6 is for levels 2 to 5 of references of even number: there PSNR.txt is as near to PSNRc.txt as only impulses
that share pixels make it (2.2 to 4.4 dB, as computed for each image, not 4.7 to 5.3)."""
