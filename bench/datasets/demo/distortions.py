"""Nineteen image distortions at five levels, of the kinds used in KADID-10k (Lin, Hosu, Saupe, QoMEX 2019).

Each function takes an image (H, W, 3) uint8, a strength from its ladder and a random stream, and returns an image of the
same shape and type. Only elementary float64 arithmetic, frozen ``RandomState`` streams and Pillow's codecs are used, so the
same call gives the same bytes on every machine.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

Pixels = NDArray[np.uint8]
Reals = NDArray[np.float64]
Stream = np.random.RandomState

_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True)
class Distortion:
    """One distortion type: ``apply(image, level, stream)`` with a level in [1, 5]."""

    name: str
    ladder: tuple[float, float, float, float, float]
    distort: Callable[[Pixels, float, Stream], Pixels]

    def apply(self, image: Pixels, level: float, stream: Stream) -> Pixels:
        """Distort an image at a level from 1 (mild) to 5 (severe); fractional levels are interpolated on the ladder."""
        strength = float(np.interp(level, [1, 2, 3, 4, 5], self.ladder))
        return self.distort(image, strength, stream)


def _store(values: Reals) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _with_luma(image: Pixels, change: Callable[[Reals], Reals]) -> Pixels:
    """Change the luma and keep the chroma."""
    values = image.astype(np.float64)
    luma = values @ _LUMA
    return _store(values + (change(luma) - luma)[..., None])


def _convolve(image: Pixels, kernel: Reals) -> Pixels:
    values = image.astype(np.float64)
    return _store(np.stack([ndimage.convolve(values[..., c], kernel, mode="reflect") for c in range(3)], axis=-1))


def _through_codec(image: Pixels, codec: str, **options: object) -> Pixels:
    stored = io.BytesIO()
    Image.fromarray(image).save(stored, codec, **options)
    with Image.open(stored) as decoded:
        return np.asarray(decoded.convert("RGB"))


def gaussian_blur(image: Pixels, sigma: float, stream: Stream) -> Pixels:
    return _store(ndimage.gaussian_filter(image.astype(np.float64), (sigma, sigma, 0), mode="reflect"))


def lens_blur(image: Pixels, radius: float, stream: Stream) -> Pixels:
    """Blur with a disc with an anti-aliased edge."""
    size = int(np.ceil(radius))
    y, x = np.mgrid[-size : size + 1, -size : size + 1].astype(np.float64)
    disc = np.clip(radius + 0.5 - np.sqrt(x * x + y * y), 0, 1)
    return _convolve(image, disc / disc.sum())


def motion_blur(image: Pixels, length: float, stream: Stream) -> Pixels:
    """Average along a line in a random direction."""
    angle = stream.uniform(0, np.pi)
    size = int(np.ceil(length / 2))
    kernel = np.zeros((2 * size + 1, 2 * size + 1))
    for step in np.linspace(-length / 2, length / 2, 8 * size + 1):
        kernel[size + int(np.rint(step * np.sin(angle))), size + int(np.rint(step * np.cos(angle)))] += 1
    return _convolve(image, kernel / kernel.sum())


def jpeg(image: Pixels, quality: float, stream: Stream) -> Pixels:
    return _through_codec(image, "JPEG", quality=round(quality))


def jpeg2000(image: Pixels, ratio: float, stream: Stream) -> Pixels:
    """Compress with JPEG 2000, with the reversible wavelet, at a compression ratio."""
    return _through_codec(image, "JPEG2000", quality_mode="rates", quality_layers=[round(ratio)], irreversible=False)


def white_noise(image: Pixels, sigma: float, stream: Stream) -> Pixels:
    return _store(image + stream.normal(0, sigma, image.shape))


def color_noise(image: Pixels, sigma: float, stream: Stream) -> Pixels:
    """Add noise to the two chroma planes only."""
    noise = stream.normal(0, sigma, image.shape)
    return _store(image + noise - (noise @ _LUMA)[..., None])


def impulse_noise(image: Pixels, share: float, stream: Stream) -> Pixels:
    out = image.copy()
    hit = stream.uniform(size=image.shape) < share
    out[hit] = np.where(stream.uniform(size=image.shape) < 0.5, 0, 255)[hit]
    return out


def multiplicative_noise(image: Pixels, sigma: float, stream: Stream) -> Pixels:
    return _store(image * (1 + stream.normal(0, sigma, image.shape)))


def color_shift(image: Pixels, pixels: float, stream: Stream) -> Pixels:
    """Shift red and blue apart in a random direction, as lateral chromatic aberration does."""
    angle = stream.uniform(0, 2 * np.pi)
    offset = np.array([pixels * np.sin(angle), pixels * np.cos(angle)])
    values = image.astype(np.float64)
    for channel, sign in ((0, 1.0), (2, -1.0)):
        values[..., channel] = ndimage.shift(values[..., channel], sign * offset, order=1, mode="reflect")
    return _store(values)


def saturation(image: Pixels, factor: float, stream: Stream) -> Pixels:
    """Scale the chroma; a factor below 1 fades colours, and a negative one turns them into their complements."""
    values = image.astype(np.float64)
    gray = (values @ _LUMA)[..., None]
    return _store(gray + factor * (values - gray))


def contrast(image: Pixels, factor: float, stream: Stream) -> Pixels:
    """Compress the luma towards its mean."""
    return _with_luma(image, lambda luma: luma.mean() + factor * (luma - luma.mean()))


def brighten(image: Pixels, amount: float, stream: Stream) -> Pixels:
    """Raise dark and middle tones along a parabola that keeps black and white."""
    return _with_luma(image, lambda luma: luma + 4 * amount * (luma / 255) * (1 - luma / 255))


def darken(image: Pixels, amount: float, stream: Stream) -> Pixels:
    """Lower the middle tones along the same parabola."""
    return brighten(image, -amount, stream)


def sharpen(image: Pixels, amount: float, stream: Stream) -> Pixels:
    """Oversharpen with an unsharp mask."""
    values = image.astype(np.float64)
    return _store(values + amount * (values - ndimage.gaussian_filter(values, (1.5, 1.5, 0), mode="reflect")))


def quantization(image: Pixels, levels: float, stream: Stream) -> Pixels:
    """Quantize each channel to a number of levels."""
    steps = round(levels) - 1
    return _store(np.rint(image.astype(np.float64) / 255 * steps) / steps * 255)


def pixelate(image: Pixels, size: float, stream: Stream) -> Pixels:
    """Replace square blocks by their mean."""
    block = round(size)
    height, width = image.shape[:2]
    rows, columns = np.arange(height) // block, np.arange(width) // block
    labels = rows[:, None] * (columns.max() + 1) + columns[None, :]
    index = np.arange(labels.max() + 1)
    planes = [ndimage.mean(image[..., c].astype(np.float64), labels, index)[labels] for c in range(3)]
    return _store(np.stack(planes, axis=-1))


def jitter(image: Pixels, reach: float, stream: Stream) -> Pixels:
    """Take each pixel from a random position nearby."""
    height, width = image.shape[:2]
    y, x = np.mgrid[0:height, 0:width]
    y = np.clip(y + np.rint(stream.uniform(-reach, reach, y.shape)).astype(int), 0, height - 1)
    x = np.clip(x + np.rint(stream.uniform(-reach, reach, x.shape)).astype(int), 0, width - 1)
    out: Pixels = image[y, x]
    return out


def block_errors(image: Pixels, count: float, stream: Stream) -> Pixels:
    """Overwrite 16×16 blocks with copies from elsewhere, as transmission errors do."""
    out = image.copy()
    height, width = image.shape[:2]
    for _ in range(round(count * height * width / 192**2)):
        to_y, from_y = stream.randint(0, height - 16, 2)
        to_x, from_x = stream.randint(0, width - 16, 2)
        out[to_y : to_y + 16, to_x : to_x + 16] = image[from_y : from_y + 16, from_x : from_x + 16]
    return out


DISTORTIONS: tuple[Distortion, ...] = (
    Distortion("gaussian-blur", (0.6, 1.0, 1.6, 2.6, 4.2), gaussian_blur),
    Distortion("lens-blur", (1.0, 1.7, 2.6, 4.0, 6.0), lens_blur),
    Distortion("motion-blur", (2.5, 5, 8, 13, 20), motion_blur),
    Distortion("jpeg", (45, 25, 14, 8, 4), jpeg),
    Distortion("jpeg2000", (16, 32, 60, 110, 200), jpeg2000),
    Distortion("white-noise", (4, 9, 17, 30, 52), white_noise),
    Distortion("color-noise", (8, 16, 28, 48, 80), color_noise),
    Distortion("impulse-noise", (0.004, 0.015, 0.04, 0.1, 0.22), impulse_noise),
    Distortion("multiplicative-noise", (0.04, 0.09, 0.17, 0.3, 0.5), multiplicative_noise),
    Distortion("color-shift", (0.8, 1.6, 3, 5, 8), color_shift),
    Distortion("saturation", (0.7, 0.4, 0.1, -0.3, -0.8), saturation),
    Distortion("contrast", (0.8, 0.6, 0.42, 0.28, 0.16), contrast),
    Distortion("brighten", (15, 30, 48, 68, 90), brighten),
    Distortion("darken", (12, 24, 38, 52, 63), darken),
    Distortion("sharpen", (0.6, 1.3, 2.6, 5, 10), sharpen),
    Distortion("quantization", (24, 13, 8, 5, 3), quantization),
    Distortion("pixelate", (2, 3, 4, 6, 9), pixelate),
    Distortion("jitter", (0.7, 1.2, 2.0, 3.2, 5.0), jitter),
    Distortion("block-errors", (3, 8, 17, 32, 60), block_errors),
)
"""The nineteen distortion types; each ladder goes from mild to severe."""
