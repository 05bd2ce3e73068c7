"""Submission bundles: written bundles are read back; malicious ones are refused in one line, before they do harm."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from iqarena.bench.errors import UserError
from iqarena.bench.submission import bundle

CLAIM = {
    "cell": {"model": "cnniqa"}, "cell_id": "0" * 16, "n_images": 2, "fingerprint": "f", "measures": {"srocc_adv": 0.5},
}  # fmt: skip
SAID = {"kind": "attack", "name": "mine", "versions": {"iqarena": "0"}, "claims": [CLAIM],
        "plugin": {"file": "source/mine.py", "made": "Mine"}}  # fmt: skip
IMAGE = torch.randint(256, (3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
MEMBERS = {
    "source/mine.py": b"x = 1\n", f"records/{'0' * 16}/images.csv": b"image_id\n" * 400,
    f"images/{'0' * 16}/00000.png": bundle.encode_png(IMAGE),
}  # fmt: skip


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    manifest = bundle.write(tmp_path / "b.zip", SAID, MEMBERS)
    with bundle.open_bundle(tmp_path / "b.zip") as opened:
        assert opened.manifest == manifest
        assert {name: opened.read(name) for name in MEMBERS} == MEMBERS
        assert opened.names("images/" + "0" * 16) == [f"images/{'0' * 16}/00000.png"]
        assert torch.equal(opened.image(f"images/{'0' * 16}/00000.png", 5, 7), IMAGE)
        assert manifest.members["source/mine.py"].sha256 == hashlib.sha256(b"x = 1\n").hexdigest()
        assert manifest.members["source/mine.py"].bytes == 6
    again = tmp_path / "again.zip"
    bundle.write(again, SAID, MEMBERS)
    assert again.read_bytes() == (tmp_path / "b.zip").read_bytes(), "the same content, the same bytes"
    assert sorted(file.name for file in tmp_path.iterdir()) == ["again.zip", "b.zip"]


def packed(
    folder: Path,
    members: dict[str, bytes] | None = None,
    change: Callable[[dict[str, Any]], None] = lambda manifest: None,
    more: Callable[[zipfile.ZipFile], None] = lambda archive: None,
) -> Path:
    """Pack a bundle by hand: its manifest fits its members before `change` is applied, then `more` adds to the zip."""
    members = MEMBERS if members is None else members
    listed = {name: {"sha256": hashlib.sha256(c).hexdigest(), "bytes": len(c)} for name, c in members.items()}
    manifest = {"format": 1, **SAID, "members": listed}
    change(manifest)
    with zipfile.ZipFile(folder / "b.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", json.dumps(manifest))
        for name, content in members.items():
            archive.writestr(name, content)
        more(archive)
    return folder / "b.zip"


def refused(path: Path, message: str) -> None:
    with pytest.raises(UserError) as refusal, bundle.open_bundle(path):
        pass
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_one_packed_by_hand_is_no_worse(tmp_path: Path) -> None:
    with bundle.open_bundle(packed(tmp_path)) as opened:
        assert set(opened.manifest.members) == set(MEMBERS)


@pytest.mark.parametrize(
    "name",
    ["../evil.py", "source/../../evil.py", "/etc/evil.py", "C:/evil.py", "source\\evil.py", "~/evil.py", "source//evil.py",
     "./evil.py", "source/.evil.py", "so\x1b[2Jurce/evil.py", "source/"],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_refused(name: str, tmp_path: Path) -> None:
    refused(packed(tmp_path, more=lambda archive: archive.writestr(name, b"")), "is no plain path inside the bundle")


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO, stat.S_IFDIR])
def test_a_link_or_a_device_is_refused(kind: int, tmp_path: Path) -> None:
    def add(archive: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo("source/link.py")
        entry.external_attr = (kind | 0o777) << 16
        archive.writestr(entry, b"/etc/passwd")

    refused(packed(tmp_path, more=add), "is a link or a device")


@pytest.mark.parametrize("name", ["source/mine.py", "source/Mine.py"])
def test_a_member_that_is_there_twice_is_refused(name: str, tmp_path: Path) -> None:
    def add(archive: zipfile.ZipFile) -> None:
        if name == "source/mine.py":
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr(name, b"x = 2\n")
        else:
            archive.writestr(name, b"x = 2\n")

    refused(packed(tmp_path, more=add), "is there twice")


@pytest.mark.parametrize("name", ["weights.pt", "weights.pkl", "a/weights.pth", "rows.npy", "rows.npz", "model.bin"])
def test_a_pickle_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    refused(packed(tmp_path, MEMBERS | {name: b""}), "may run code when it is read; weights come as .safetensors")


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_pickle_is_refused_whatever_it_is_called(protocol: int, tmp_path: Path) -> None:
    content = pickle.dumps({"weight": [1.0]}, protocol)
    refused(packed(tmp_path, MEMBERS | {"weights.safetensors": content}), "is a pickle or an archive")


@pytest.mark.parametrize("name", ["run.sh", "lib.so", "page.html", "noending"])
def test_another_kind_of_file_is_refused(name: str, tmp_path: Path) -> None:
    refused(packed(tmp_path, MEMBERS | {name: b""}), "is none of the kinds of file in a bundle")


def test_a_member_that_is_not_in_the_manifest_is_refused(tmp_path: Path) -> None:
    refused(packed(tmp_path, more=lambda archive: archive.writestr("source/more.py", b"")), "and not in the manifest")


def test_a_member_that_is_only_in_the_manifest_is_refused(tmp_path: Path) -> None:
    def add(manifest: dict[str, Any]) -> None:
        manifest["members"]["source/more.py"] = {"sha256": "0" * 64, "bytes": 0}

    refused(packed(tmp_path, change=add), "source/more.py is in the manifest and not in the bundle")


def test_hashes_that_were_swapped_are_refused(tmp_path: Path) -> None:
    members = MEMBERS | {"source/a.py": b"a = 1\n", "source/b.py": b"b = 1\n"}

    def swap(manifest: dict[str, Any]) -> None:
        listed = manifest["members"]
        listed["source/a.py"], listed["source/b.py"] = listed["source/b.py"], listed["source/a.py"]

    refused(packed(tmp_path, members, swap), "is not what the manifest says")


@pytest.mark.parametrize("by", [-1, 1])
def test_another_size_than_the_manifests_is_refused(by: int, tmp_path: Path) -> None:
    def change(manifest: dict[str, Any]) -> None:
        manifest["members"]["source/mine.py"]["bytes"] += by

    refused(packed(tmp_path, change=change), "bytes that the manifest says")


def test_a_zip_bomb_is_refused_unopened(tmp_path: Path, monkeypatch) -> None:
    path = packed(tmp_path, MEMBERS | {"source/bomb.py": b"\n" * (8 << 20)})
    assert path.stat().st_size < 20_000
    monkeypatch.setattr(zipfile.ZipFile, "open", lambda *_, **__: pytest.fail("was opened"))
    refused(path, "is a zip bomb: it unpacks to 8,388,608 bytes")


def test_a_zip_bomb_that_lies_about_its_size_is_refused(tmp_path: Path) -> None:
    content = b"\n" * (8 << 20)
    path = packed(tmp_path, MEMBERS | {"source/bomb.py": content})
    raw = path.read_bytes().replace(struct.pack("<L", len(content)), struct.pack("<L", 6))  # in both of its headers
    path.write_bytes(raw.replace(b'"bytes": 8388608', b'"bytes":       6'))
    refused(path, "source/bomb.py is damaged")  # its checksum is of all, and no more than 6 bytes were unpacked


def test_a_zip_bomb_whose_members_overlap_is_refused(tmp_path: Path) -> None:
    """A bomb after Fifield (2019): many names for the same packed bytes."""
    content = bytes(np.random.default_rng(0).integers(256, size=5000, dtype=np.uint8))
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("a.py", content)
        for number in range(20):
            entry = zipfile.ZipInfo(f"b{number}.py")
            first = archive.infolist()[0]
            entry.header_offset, entry.CRC = first.header_offset, first.CRC
            entry.compress_size = entry.file_size = len(content)
            archive.filelist.append(entry)
            archive.NameToInfo[entry.filename] = entry
        archive._didModify = True
    refused(tmp_path / "b.zip", "a zip bomb: its members overlap")


@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [("member", 1000, "at most 1,000 are looked at"), ("whole", 1 << 20, "at most 1 are looked at")],
)
def test_what_unpacks_to_too_much_is_refused(limit: str, most: int, message: str, tmp_path: Path, monkeypatch) -> None:
    content = np.random.default_rng(0).bytes(2 << 20)
    monkeypatch.setitem(bundle.MAX_BYTES, limit, most)
    refused(packed(tmp_path, MEMBERS | {"weights.safetensors": content}), message)


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(bundle, "MAX_MEMBERS", 3)
    refused(packed(tmp_path), "has 4 members; at most 3 are looked at")


def test_what_is_encrypted_is_refused(tmp_path: Path) -> None:
    path = packed(tmp_path)
    raw = bytearray(path.read_bytes())
    offset = raw.index(b"PK\x01\x02", raw.index(b"PK\x01\x02") + 1)  # the second member in the zip's central directory
    raw[offset + 8] |= 1
    path.write_bytes(bytes(raw))
    refused(path, "is encrypted, or packed in another way")


def test_another_packing_is_refused(tmp_path: Path) -> None:
    def add(archive: zipfile.ZipFile) -> None:
        archive.writestr("source/more.py", b"", compress_type=zipfile.ZIP_LZMA)

    refused(packed(tmp_path, more=add), "is encrypted, or packed in another way")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.update(format=2), "manifest.json: format"),
        (lambda m: m.update(kind="virus"), "manifest.json: kind"),
        (lambda m: m.update(more=1), "manifest.json: more"),
        (lambda m: m.pop("claims"), "manifest.json: claims"),
        (lambda m: m.update(claims=[]), "manifest.json: claims"),
        (lambda m: m.update(claims=[CLAIM | {"cell_id": "../../etc/passwd0"}]), "claims.0.cell_id"),
        (lambda m: m.update(claims=[CLAIM | {"n_images": 10**9}]), "claims.0.n_images"),
        (lambda m: m.update(plugin={"file": "a.py", "made": "os.system"}), "plugin.made"),
        (lambda m: m["members"]["source/mine.py"].update(sha256="0"), "members.source/mine.py.sha256"),
        (lambda m: m.update(claims=[CLAIM | {"measures": {"srocc_adv": float("nan")}}]), "claims.0.measures.srocc_adv"),
        (lambda m: m.update(claims=[CLAIM | {"forwards": float("inf")}]), "claims.0.forwards"),
        (lambda m: m["members"].update({"\x1b[2J\nall is well": m["members"]["source/mine.py"]}), "well is in the manifest"),
        (lambda m: m.update({"\x1b[2J\nall is well": 1}), "manifest.json: ?[2J?all is well: "),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(change: Callable[[dict[str, Any]], None], message: str, tmp_path) -> None:
    refused(packed(tmp_path, change=change), message)


def test_what_a_reader_would_refuse_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source/my idea\.py: its name will not do in a bundle"):
        bundle.write(tmp_path / "b.zip", SAID, {"source/my idea.py": b""})
    with pytest.raises(UserError, match=r"b\.zip: cannot be made: claims\.0\.n_images: "):
        bundle.write(tmp_path / "b.zip", {**SAID, "claims": [CLAIM | {"n_images": 1}]}, MEMBERS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, "\xff\xfe"])
def test_a_manifest_that_is_no_json_is_refused(text: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("manifest.json", text.encode("latin-1"))
    refused(tmp_path / "b.zip", "manifest.json: ")


def test_a_zip_of_something_else_and_no_zip_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.writestr("notes.csv", b"")
    refused(tmp_path / "b.zip", "no submission bundle; it has no manifest.json")
    (tmp_path / "c.zip").write_text("hello")
    refused(tmp_path / "c.zip", "not a zip file")
    refused(tmp_path / "d.zip", "no such file")
    refused(tmp_path, "not a file")


def test_a_bundle_that_was_cut_or_changed_on_the_way_is_refused(tmp_path: Path) -> None:
    raw = packed(tmp_path).read_bytes()
    (tmp_path / "b.zip").write_bytes(raw[: len(raw) // 2])
    refused(tmp_path / "b.zip", "not a zip file")
    offset = raw.index(b"source/mine.py") + len(b"source/mine.py") + 1
    (tmp_path / "b.zip").write_bytes(raw[:offset] + bytes([raw[offset] ^ 0xFF]) + raw[offset + 1 :])
    refused(tmp_path / "b.zip", "source/mine.py is ")


# --- images


def png(width: int, height: int, mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, (width, height)).save(buffer, "png", **options)
    return buffer.getvalue()


def huge() -> bytes:
    """Return a PNG of some hundred bytes that claims 50,000 × 50,000 pixels."""
    raw = png(1, 1)
    header = struct.pack(">LLBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    return raw[:8] + struct.pack(">L", 13) + chunk + struct.pack(">L", zlib.crc32(chunk)) + raw[33:]


def animated() -> bytes:
    frames = [Image.new("RGB", (7, 5), colour) for colour in ("red", "blue")]
    buffer = io.BytesIO()
    frames[0].save(buffer, "png", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def jpeg() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (7, 5)).save(buffer, "jpeg")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (huge(), "not a readable PNG|is 50000×50000, and the clean image 7×5"),
        (png(8, 5), "is 8×5, and the clean image 7×5"),
        (png(7, 5, "L"), "not a still image in 8-bit RGB"),
        (png(7, 5, "RGBA"), "not a still image in 8-bit RGB"),
        (png(7, 5, "I;16"), "not a still image in 8-bit RGB"),
        (png(7, 5, transparency=(0, 0, 0)), "not a still image in 8-bit RGB"),
        (animated(), "not a still image in 8-bit RGB"),
        (jpeg(), "not a PNG file"),
        (b"", "not a PNG file"),
        (png(7, 5)[:45], "not a readable PNG file"),
    ],
)
def test_an_image_of_another_kind_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message) as refusal:
        bundle.decode_png(content, "x.png", 5, 7)
    assert "\n" not in str(refusal.value)


def test_a_text_chunk_that_unpacks_to_much_is_refused() -> None:
    raw = png(7, 5)
    body = b"zTXtkey\x00\x00" + zlib.compress(b" " * (80 << 20))
    chunk = struct.pack(">L", len(body) - 4) + body + struct.pack(">L", zlib.crc32(body))
    with pytest.raises(UserError, match="not a readable PNG file"):
        bundle.decode_png(raw[:33] + chunk + raw[33:], "x.png", 5, 7)
