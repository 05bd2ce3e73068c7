"""Image files that end too early without an error: decoders fill what is missing with black or grey."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced PNG: first column, first row, and the steps of both."""

_MORE = (bytes(range(1, 250)) * 4, b"\x00" * 1000, b"\x5b\xa6" * 500)
"""Data for the end of a JPEG; by chance, one of them may say that nothing follows in a scan of a progressive one."""

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""The colour types of PNG."""


def ends_early(path: Path, decoded: Image.Image) -> bool:
    """Check whether a decoded PNG or JPEG file has fewer pixels than it says, although it has an end.

    The file is looked at again only if the last pixels are what the decoder would fill in.
    """
    box = (0, decoded.height - 1, decoded.width, decoded.height)
    if decoded.format == "PNG":
        return not any(decoded.crop(box).tobytes()) and _is_short_png(path.read_bytes())
    if decoded.format in ("JPEG", "MPO"):
        corner = decoded.crop((max(decoded.width - 4, 0), max(decoded.height - 4, 0), decoded.width, decoded.height))
        channels = {channel.tobytes() for channel in corner.split()}  # grey has the same three; one is of a grey image
        filled = len(channels) == 1 and (decoded.mode == "RGB" or set(corner.tobytes()) == {128})
        filled = filled or bool(decoded.info.get("progressive"))
        return filled and _is_short_jpeg(path.read_bytes(), decoded)
    return False


def _is_short_png(content: bytes) -> bool:
    """Check whether the stream of a PNG file holds fewer bytes than its rows have."""
    header, stream = b"", b""
    for kind, data in _chunks(content):
        header, stream = (data, stream) if kind == b"IHDR" else (header, stream + data if kind == b"IDAT" else stream)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", header)
    expected = 0
    for left, top, right, down in _ADAM7 if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - left) // right), -(-(height - top) // down)
        expected += rows * (1 + -(-columns * depth * _CHANNELS[colour] // 8)) if columns > 0 and rows > 0 else 0
    return len(zlib.decompressobj().decompress(stream, expected)) < expected


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 8
    while position + 8 <= len(content):
        (length,) = struct.unpack(">I", content[position : position + 4])
        yield content[position + 4 : position + 8], content[position + 8 : position + 8 + length]
        position += length + 12


def _is_short_jpeg(content: bytes, decoded: Image.Image) -> bool:
    """Check whether the decoder would use more data than there is before the end: more data change the image."""
    end, pixels = content.rfind(b"\xff\xd9"), decoded.tobytes()
    for more in _MORE:
        try:
            with Image.open(io.BytesIO(content[:end] + more + content[end:])) as longer:
                changed = longer.tobytes() != pixels
        except OSError:  # a whole image has no use for more data, so they break none
            changed = True
        if changed:
            return True
    return False
