"""`iqarena submit`: pack an attack, adversarial images or trained weights with the claimed measures."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd

from iqarena.attacks.threat import Norm
from iqarena.bench.cells import Cell, digest
from iqarena.bench.datasets import open_dataset
from iqarena.bench.datasets.base import ImageDataset, ImageFiles
from iqarena.bench.datasets.pixels import rgb_image
from iqarena.bench.datasets.tree import check_ids
from iqarena.bench.errors import CannotRun, UserError, printable
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import execute
from iqarena.bench.executors.schedule import ProgressCallback
from iqarena.bench.metrics.measures import measure_cell
from iqarena.bench.registry import ATTACKS, DEFENSES, parse_spec
from iqarena.bench.results.provenance import provenance
from iqarena.bench.results.store import Records
from iqarena.bench.submission.bundle import Manifest, decode_png, encode_png, write
from iqarena.bench.submission.rescoring import CLAIMED, check_listed, checked_cell, defense_with_weights, rescore, suite_of
from iqarena.bench.suite import Suite, changed, load_suite, parse_size
from iqarena.models.zoo import WeightsError, card_of, read_state, sha256_of

SAMPLE = 4
"""Number of attacked images per cell, the first ones, in a bundle with code or weights."""

MAX_MISSING = 10
"""Largest number of missing images for which a folder is still recognised as part of a set."""


def submit_attack(name: str, results: Path, root: Path | None, out: Path, report: ProgressCallback) -> Manifest:
    """Pack an attack: its source, the records of its cells, and some attacked images of each.

    Cells whose code has changed since they were run, or whose images were not kept, are run again.

    Args:
        name: registry name, or ``file:path.py:Class``.
        results: folder with its records.
        root: folder of a data set that is not embedded.
        out: path of the bundle.
        report: called with the progress.

    Raises:
        UserError: where there is nothing to pack, or where it cannot be packed.
    """
    if parse_spec(name)[1]:
        raise UserError(f"{name}: an attack is submitted by its name, without parameters; all cells of it go along")
    attack, records = ATTACKS.find(name), Records(results)
    source = _source(attack)
    of_attack = [record for record in records.all() if parse_spec(record["cell"]["attack"])[0] == name]
    if not of_attack:
        raise UserError(f"{results}: has no records of {name}; first iqarena run --attack {name} --out {results}")
    cells = [checked_cell(record["cell"], {"attack": name}) for record in of_attack]
    limits = {record["n_images"] for record in of_attack}
    if len(limits) > 1:
        raise UserError(f"{results}: {name} was run on {min(limits)} and on {max(limits)} images; use a folder for each")
    claims, members = _run(suite_of(cells, limits.pop()), cells, root, records, report)
    plugin = {"file": f"source/{source.name}", "made": attack.__name__}
    members |= {plugin["file"]: source.read_bytes()}
    return write(out, _manifest_fields("attack", name, claims, plugin), members)


def submit_images(
    folder: Path, model: str, defense: str, dataset: str, eps: str, norm: Norm, name: str, root: Path | None, out: Path
) -> Manifest:
    """Pack adversarial images of any origin for a listed model and defense.

    Args:
        folder: contains one PNG per image, named after its image id.
        model, defense, dataset: names from the registries.
        eps, norm: size and norm of the threat model.
        name: name of the attack for display.
        root: folder of a data set that is not embedded.
        out: path of the bundle.

    Raises:
        UserError: where an image is missing, unreadable or outside the threat model; nothing is written then.
    """
    try:
        size = parse_size(eps)
    except ValueError as error:
        raise UserError(f"--eps: {error}") from None
    fields = {
        "dataset": dataset,
        "model": model,
        "defense": defense,
        "attack": name,
        "objective": "away",
        "norm": norm,
        "eps": size,
        "queries": None,
        "setting": "adaptive",
        "seed": 0,
        "draws": 8,
    }
    cell = checked_cell(fields, {"attack": name})
    image_set = open_dataset(dataset, root)
    files = _files(folder, image_set)
    evaluator, cell_id = Evaluator(image_set, len(files), 16), digest(fields)[:16]
    pixels = [
        decode_png(_bytes(file), str(file), height, width)
        for file, (height, width) in zip(files, evaluator.images.sizes, strict=True)
    ]
    try:
        rows = rescore(evaluator, cell, pixels)
    except CannotRun as error:
        raise UserError(str(error)) from None
    outside = rows.image_id[rows.status != "ok"].tolist()
    if outside:
        raise UserError(f"{len(outside)} of {len(rows)} images are outside {norm} ≤ {eps}, such as {outside[0]}")
    members = _packed(cell_id, rows.to_csv(index=False).encode(), pixels)
    claim = _claim(cell, cell_id, image_set.fingerprint, rows)
    return write(out, _manifest_fields("images", name, [claim]), members)


def submit_defense(
    weights: Path,
    model: str,
    recipe: str,
    name: str,
    suite: str,
    changes: Mapping[str, Any],
    root: Path | None,
    results: Path,
    out: Path,
    report: ProgressCallback,
) -> Manifest:
    """Pack weights that `iqarena train` wrote, and their card, with their measures under a suite's attacks.

    Args:
        weights: a safetensors file with its card beside it.
        model, recipe: the trained model and its training recipe.
        name: name of the defense on the board.
        suite: the suite whose attacks are run.
        changes: changed fields of the suite, such as its limit.
        root: folder of a data set that is not embedded.
        results: folder for the records.
        out: path of the bundle.
        report: called with the progress.

    Raises:
        UserError: for weights that are damaged, in another format or without a card.
    """
    check_listed("model", model)
    if weights.suffix != ".safetensors":
        raise UserError(f"{weights}: weights come as .safetensors, as `iqarena train` writes them")
    card = weights.with_suffix(".yaml")
    try:
        sha256_of(weights)
        read_state(weights)
        card_of(weights)
    except WeightsError as error:
        raise UserError(str(error)) from None
    if not card.is_file():
        raise UserError(f"{card}: the weights have no card; `iqarena train` writes one beside them")
    DEFENSES.add(name, defense_with_weights(name, recipe, weights))
    chosen = changed(load_suite(suite), {**changes, "models": [model], "defenses": [name]})
    claims, members = _run(chosen, None, root, Records(results), report)
    members |= {"weights.safetensors": _bytes(weights), "weights.yaml": _bytes(card)}
    plugin = {"file": "weights.safetensors", "recipe": recipe, "model": model}
    return write(out, _manifest_fields("defense", name, claims, plugin), members)


def _run(
    suite: Suite, cells: Sequence[Cell] | None, root: Path | None, records: Records, report: ProgressCallback
) -> tuple[list[dict[str, Any]], dict[str, bytes]]:
    """Run the missing cells of a suite; return the claims of its cells, and the members with their records."""
    outcome = execute(suite, root, records, report, keep_images=True)
    if outcome.failed:
        cell, *reasons = outcome.failed[0]
        raise UserError(f"{len(outcome.failed)} cells did not end ok, as {cell.attack} on {cell.model}: {' '.join(reasons)}")
    if not outcome.cell_ids:
        raise UserError(f"no cell of it can be run: {outcome.skipped[0][1] if outcome.skipped else 'the suite is empty'}")
    claims, members = [], dict[str, bytes]()
    for cell_id in outcome.cell_ids:
        record = records.read(cell_id)
        if record is None or record["status"] != "ok":
            raise UserError(f"{records.cells / cell_id}: no record that ended ok; run it again")
        files, rows = records.files(cell_id), records.images(cell_id)
        cell = Cell(**record["cell"])
        claims.append(
            _claim(cell, cell_id, record["dataset"]["fingerprint"], rows)
            | {"forwards": record["costs"]["forwards_mean"], "backwards": record["costs"]["backwards_mean"]}
        )
        images = (records.attacked_images(record) or [])[:SAMPLE]
        members |= _packed(cell_id, files.images, images)
        members[f"records/{cell_id}/record.json"] = files.record
    return claims, members


def _claim(cell: Cell, cell_id: str, fingerprint: str, rows: pd.DataFrame) -> dict[str, Any]:
    measured = measure_cell(rows)
    measures = {name: value if math.isfinite(value := measured[name]) else None for name in CLAIMED}
    return {
        "cell": cell.parts,
        "cell_id": cell_id,
        "n_images": len(rows),
        "fingerprint": fingerprint,
        "measures": measures,
    }


def _packed(cell_id: str, rows: bytes, images: Sequence[Any]) -> dict[str, bytes]:
    packed = {f"images/{cell_id}/{index:05d}.png": encode_png(image) for index, image in enumerate(images)}
    return {f"records/{cell_id}/images.csv": rows, **packed}


def _manifest_fields(kind: str, name: str, claims: Sequence[Any], plugin: Mapping[str, str] | None = None) -> dict[str, Any]:
    return {"kind": kind, "name": name, "versions": provenance()["versions"], "claims": claims, "plugin": plugin}


def _source(cls: type[Any]) -> Path:
    """Return the file of an attack's class.

    Raises:
        UserError: where it needs another file that is not part of the project.
    """
    file = inspect.getsourcefile(cls)
    if file is None:
        raise UserError(f"{cls.__name__}: its source cannot be found")
    for base in cls.__mro__:
        other = inspect.getsourcefile(base) if base.__module__ not in ("builtins", "abc", "typing") else file
        if other != file and base.__module__.partition(".")[0] != "iqarena":
            raise UserError(f"{cls.__name__} builds on {base.__module__}; an attack is submitted as one file")
    return Path(file)


def _files(folder: Path, dataset: ImageDataset) -> list[Path]:
    """Return the PNG files in a folder in the order of the data set's subset of that many images.

    Raises:
        UserError: where they are other images than ``--limit`` would choose.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    present = {file.relative_to(folder).as_posix() for file in folder.rglob("*.png") if file.is_file()}
    if len(present) < 2:
        raise UserError(f"{folder}: has {len(present)} PNG files; at least 2 images are wanted")
    for limit in range(len(present), len(present) + MAX_MISSING + 1):
        wanted = _wanted(dataset, limit)
        if present == set(wanted):
            return [folder / name for name in wanted]
        if present < set(wanted):
            missing = min(set(wanted) - present)
            command = f"iqarena data export {dataset.name} --limit {len(wanted)}"
            raise UserError(f"{folder / missing}: is missing; the others are of the images that `{command}` writes")
    wanted = _wanted(dataset, len(present))
    raise UserError(
        f"{folder / min(present - set(wanted))}: not one of the {len(wanted)} images that `iqarena data export "
        f"{dataset.name} --limit {len(present)}` writes; they are called like {wanted[0]}"
    )


def _wanted(dataset: ImageDataset, limit: int) -> list[str]:
    return [image_name(dataset.samples[index].image_id) for index in dataset.spread(limit)]


def image_name(image_id: str) -> str:
    """Return the file name of an image: its id, ending in .png."""
    return image_id if image_id.endswith(".png") else f"{image_id}.png"


def export(dataset: ImageDataset, limit: int | None, out: Path) -> int:
    """Write clean images as PNG files, named as `submit_images` expects the attacked ones; return their number.

    Raises:
        UserError: where an image cannot be read or written, or where its file would lie outside `out` or replace an image of
            the data set; in the latter cases nothing is written.
    """
    indices = dataset.spread(limit)
    files = _export_files(dataset, indices, out)
    for index, file in zip(indices, files, strict=True):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(encode_png(rgb_image(dataset, index)))
        except OSError as error:
            raise UserError(f"{file}: cannot be written ({error.strerror})") from None
    return len(indices)


def _export_files(dataset: ImageDataset, indices: Sequence[int], out: Path) -> list[Path]:
    """Return the files of exported images.

    Raises:
        UserError: for the first that lies outside `out`, also by a link, is an image of the data set or of another id.
    """
    ids = [dataset.samples[index].image_id for index in indices]
    check_ids(ids)
    originals = (
        {dataset.file(index).resolve() for index in range(len(dataset))} if isinstance(dataset, ImageFiles) else set()
    )
    files: dict[Path, Path] = {}
    for image_id in ids:
        file = out / image_name(image_id)
        try:
            place = file.resolve()
        except (OSError, RuntimeError) as error:  # a loop of links
            raise UserError(f"{file}: cannot be written ({error})") from None
        if not place.is_relative_to(out.resolve()) or PurePosixPath(image_id).is_absolute():
            raise UserError(f"{out}: the image {printable(image_id)} would be written outside of it; give it another name")
        if place in originals:
            raise UserError(
                f"{out}: holds the data set's own {printable(image_id)}, which is not replaced; choose another DIR"
            )
        if place in files:
            raise UserError(f"{file}: two images would be written to it; give one another name")
        files[place] = file
    return list(files.values())


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from None
