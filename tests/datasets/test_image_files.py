"""Valid and invalid image files."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from iqarena.bench.datasets.base import read_image
from iqarena.bench.errors import UserError


def exit_on_user_error(error):
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.fixture
def path(tmp_path):
    """A valid image file."""
    Image.fromarray(np.random.RandomState(1).randint(0, 256, (20, 24, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def deep_png(path, image):
    """Write a PNG of 16 bits a channel, which Pillow cannot write."""
    height, width = image.shape[:2]
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in image)
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows)),
        (b"IEND", b""),
    ]
    stored = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(stored))


def _save(path, image, **options):
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(path, **options)


def turned_jpeg(path, image):
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    _save(path, image, format="JPEG", exif=turned)


def bomb(path, _):
    """Write a decompression bomb: 2.5 GB of pixels in a file of a few bytes."""
    rows = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + b"IHDR" + rows + struct.pack(">I", zlib.crc32(b"IHDR" + rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + struct.pack(">I", 0) + b"IDAT" + bytes(8))


def folder_instead(path, _):
    path.unlink()
    path.mkdir()


BAD = {
    "missing": (lambda path, _: path.unlink(), "no such file"),
    "directory": (folder_instead, "not a readable image"),
    "zero-byte": (lambda path, _: path.write_bytes(b""), "not a readable image"),
    "text": (lambda path, _: path.write_text("this is no image"), "not a readable image"),
    "cut": (lambda path, _: path.write_bytes(path.read_bytes()[:300]), "not a readable image"),
    "grey": (lambda path, image: _save(path, image[..., 0]), "mode L"),
    "alpha": (lambda path, image: _save(path, np.dstack([image, image[..., :1]])), "mode RGBA"),
    "palette": (lambda path, image: _save(path, Image.fromarray(image).quantize(16)), "mode P"),
    "sixteen-bit": (lambda path, image: _save(path, image[..., 0].astype(np.uint16) * 256), "16 bits"),
    "sixteen-bit RGB": (deep_png, "16 bits"),
    "sixteen-bit PPM": (
        lambda path, image: path.write_bytes(b"P6 24 20 65535\n" + (image.astype(">u2") * 257).tobytes()),
        "16 bits",
    ),
    "animated": (
        lambda path, image: _save(path, image, save_all=True, append_images=[Image.fromarray(image[::-1].copy())]),
        "has 2 frames",
    ),
    "cmyk": (lambda path, image: _save(path, Image.fromarray(image).convert("CMYK"), format="JPEG"), "mode CMYK"),
    "turned": (turned_jpeg, "orientation 6"),
    "bomb": (bomb, "decompression bomb"),
}
"""Functions that spoil an image file, and the message with which the file is then refused."""


def spoil(path, kind):
    BAD[kind][0](path, np.random.RandomState(0).randint(0, 256, (20, 24, 3), dtype=np.uint8))


@pytest.mark.parametrize("kind", BAD)
def test_an_image_that_cannot_be_used_is_one_line_that_names_it(path, kind):
    spoil(path, kind)
    with pytest.raises(UserError) as error:
        read_image(path)
    assert exit_on_user_error(error).startswith(f"{path}: ")
    assert BAD[kind][1] in str(error.value)


def test_an_image_twice_below_the_bomb_limit_is_refused_not_warned_of(path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 400)  # 480 pixels: Pillow would only warn
    with pytest.raises(UserError, match="decompression bomb"):
        read_image(path)


def test_an_upright_exif_is_no_matter(path):
    upright = Image.Exif()
    upright[ExifTags.Base.Orientation] = 1
    Image.open(path).save(path.with_suffix(".jpg"), exif=upright)
    assert read_image(path.with_suffix(".jpg")).shape == (3, 20, 24)


# --- of a published data set


@pytest.mark.parametrize("kind", ["grey", "palette", "turned"])
def test_a_published_image_whose_rgb_is_exact_is_read_as_everybody_reads_it(path, kind):
    spoil(path, kind)
    image = read_image(path, published=True)
    assert (image.permute(1, 2, 0).numpy() == np.asarray(Image.open(path).convert("RGB"))).all()


def test_alpha_of_a_published_image_must_be_opaque(path):
    pixels = np.asarray(Image.open(path))
    Image.fromarray(np.dstack([pixels, np.full((20, 24), 255, np.uint8)])).save(path)
    assert (read_image(path, published=True).permute(1, 2, 0).numpy() == pixels).all()
    spoil(path, "alpha")
    with pytest.raises(UserError, match="partly transparent"):
        read_image(path, published=True)


def test_of_a_published_multi_image_jpeg_the_first_is_taken(path):
    first, second = Image.open(path), Image.fromarray(np.zeros((20, 24, 3), np.uint8))
    first.save(path.with_suffix(".mpo"), "MPO", save_all=True, append_images=[second])
    with pytest.raises(UserError, match="2 frames"):
        read_image(path.with_suffix(".mpo"))
    image = read_image(path.with_suffix(".mpo"), published=True)
    assert image.float().mean() > 100


@pytest.mark.parametrize("kind", sorted(set(BAD) - {"grey", "palette", "turned"}))
def test_other_images_are_refused_of_a_published_set_too(path, kind):
    spoil(path, kind)
    with pytest.raises(UserError):
        read_image(path, published=True)


@pytest.mark.filterwarnings("ignore::UserWarning")  # Pillow warns of damaged TIFF tags before it gives up or goes on
@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tiff", "webp"])
def test_a_cut_or_changed_file_is_an_image_or_a_user_error_never_a_crash(tmp_path, suffix, natural):
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(natural[:40, :48]).save(path)
    whole = path.read_bytes()
    rng = np.random.RandomState(0)
    for turn in range(60):
        content = bytearray(whole)
        if turn % 2:
            content = content[: rng.randint(1, len(whole))]
        else:
            for index in rng.randint(0, len(whole), 3):
                content[index] = rng.randint(256)
        path.write_bytes(content)
        refusal = ""
        try:
            image = read_image(path)
        except UserError as error:
            refusal = str(error)
        if refusal:
            assert str(path) in refusal
            assert "\n" not in refusal
        else:
            assert image.dtype == torch.uint8
            assert image.shape[0] == 3
