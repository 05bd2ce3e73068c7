"""The base of all readers of published data sets: one label file, read once; images found by name, in whatever case.

A reader is a table: which label files a release may have and how each is read, where its images lie, what its numbers
mean. Everything else is done here. The official label files come first. Where none is there, ``labels.csv`` or
``labels.txt`` is taken, with the columns `dis_img_path` (the data set's folder, then the official path), `score` (raw)
and, in sets with references, `ref_img_path`: the form in which the IQA-Dataset project publishes labels of many sets.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import ClassVar

import pandas as pd

from iqarena.bench.datasets.base import SPLITS, ImageFiles, Sample
from iqarena.bench.datasets.tables import Frame, read_csv, renamed
from iqarena.bench.datasets.tree import Tree
from iqarena.bench.errors import UserError

COMMON = ("labels.csv", "labels.txt")


@dataclass(frozen=True)
class LabelFile:
    """One form in which a data set's labels come.

    Attributes:
        paths: official paths below the data set's folder, all needed; the first says where that folder is. `*` stands for
            any part of a name, and for several files.
        read: makes a frame of the files, with the columns image (official path below the image folder), raw and, where
            it has them, reference_id and split.
        raw_range: of its labels, if not the data set's.
    """

    paths: tuple[str, ...]
    read: Callable[[Sequence[Path]], Frame]
    raw_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Problem:
    """Something that is wrong with a data set on this disk: what kind, of which file, in words."""

    kind: str
    file: str
    about: str


class PublishedSet(ImageFiles):
    """A published data set; a subclass fills in the table.

    Attributes:
        title: as its authors write it.
        label_files: forms of its labels, the preferred one first.
        folders: alternatives of folders that hold the images; the first of which one is there is taken.
        beside: pattern of official files that lie there too, below the data set's folder and in lower case.
        side: (width, height) of every image, where the release says so.
        common_count: how many labels the ``labels.csv`` of the IQA-Dataset project has, if not `count`.
    """

    label_kind = "MOS"
    published = True
    title: ClassVar[str]
    label_files: ClassVar[tuple[LabelFile, ...]]
    folders: ClassVar[tuple[tuple[str, ...], ...]]
    beside: ClassVar[str] = ""
    side: ClassVar[tuple[int, int] | None] = None
    common_count: ClassVar[int | None] = None

    def __init__(self, root: Path) -> None:
        """Read the labels; images are not needed yet.

        Raises:
            UserError: where the root or its label file is not this data set's, or a label is wrong.
        """
        self._index(root)
        if self.label_problems:
            first = self.label_problems[0]
            more = f" (and {len(self.label_problems) - 1:,} more: {self._verify()})" if len(self.label_problems) > 1 else ""
            raise UserError(f"{first.file}: {first.about}{more}")

    @classmethod
    def open(cls, root: Path | None) -> PublishedSet:
        """The data set with all its images there, if not yet decoded.

        Raises:
            UserError: also where an image is missing: half an archive would be another benchmark.
        """
        if root is None:
            raise UserError(f"the data set {cls.name!r} needs --root DIR, the folder with {cls.label_files[0].paths[0]}")
        opened = cls(root)
        missing = [sample.image_id for sample, path in zip(opened.samples, opened.paths, strict=True) if path is None]
        if missing:
            raise UserError(
                f"{root}: {len(missing):,} of the {len(opened):,} images of {cls.title} are missing, "
                f"the first is {missing[0]}; {opened._verify()} lists them"
            )
        return opened

    @classmethod
    def indexed(cls, root: Path) -> PublishedSet:
        """As the constructor, but wrong labels are only noted, in `label_problems`; their images are left out."""
        made = cls.__new__(cls)
        made._index(root)
        return made

    def file(self, index: int) -> Path:
        path = self.paths[index]
        return self.root / (path if path is not None else f"{self._place}{self.samples[index].image_id}")

    def _verify(self) -> str:
        return f"iqarena data verify {self.name} --root {self.root}"

    def _index(self, root: Path) -> None:
        self.root, tree = root, Tree(root)
        form, place, files = self._labels_in(tree)
        self._place, self.label_file = place, files[0]
        self.raw_range = form.raw_range or self.raw_range
        table = form.read(files)
        common = files[0].name.lower() in COMMON
        wanted = self.common_count if common and self.common_count else self.count
        self.label_problems, good = self._checked(table, wanted)
        table = table[good]
        if "reference_id" not in table:  # taken as they come: every image is its own reference
            table = table.assign(reference_id=table["image"])
        rows = zip(table["image"], table["reference_id"], table["raw"].astype(float), strict=True)
        self.samples = [Sample(str(image), str(reference), self._label(raw), raw) for image, reference, raw in rows]
        self.official = list(table["split"]) if "split" in table else None
        self.image_folders = self._folders_in(tree, place)
        self.tree = tree
        self.paths = [self._find(sample.image_id) for sample in self.samples]
        digest = hashlib.sha256(self.name.encode())
        for file in files:
            digest.update(file.read_bytes())
        self.fingerprint = digest.hexdigest()

    def _labels_in(self, tree: Tree) -> tuple[LabelFile, str, list[Path]]:
        """The label file to use: its form, the place that its official path counts from, and all its files."""
        for form in (*self.label_files, *(LabelFile((name,), self._read_common) for name in COMMON)):
            places = tree.places_of(form.paths[0])
            if not places:
                continue
            if len(places) > 1 and places[0].count("/") == places[1].count("/"):
                two = " and ".join(f"{place}{form.paths[0]}" for place in places[:2])
                raise UserError(f"{tree.root}: holds {two}; give the folder of one of them with --root")
            found = [tree.matching(places[0], path) for path in form.paths]
            for path, files in zip(form.paths, found, strict=True):
                if not files:
                    raise UserError(
                        f"{tree.root}: holds {places[0]}{form.paths[0]} but no {path}, which {self.title} needs too"
                    )
            return form, places[0], [file for files in found for file in files]
        known = ", ".join(form.paths[0] for form in self.label_files)
        raise UserError(
            f"{tree.root}: holds no label file of {self.title} ({known}, or {' or '.join(COMMON)}); "
            "give the unpacked folder with --root"
        )

    def _read_common(self, files: Sequence[Path]) -> Frame:
        table = read_csv(files[0])
        columns = {"image": "dis_img_path", "raw": "score"}
        if "ref_img_path" in table:
            columns["reference_id"] = "ref_img_path"
        table = renamed(table, files[0], **columns)
        table["image"] = [self.image_of(str(path)) for path in table["image"]]
        if "reference_id" in table:
            table["reference_id"] = [PurePosixPath(str(path)).stem for path in table["reference_id"]]
        return table

    @classmethod
    def image_of(cls, path: str) -> str:
        """The official path below the image folder, of a path that begins with the data set's own folder."""
        path = path.partition("/")[2]
        for folder in (folder for folders in cls.folders for folder in folders if folder):
            path = path.removeprefix(f"{folder}/")
        return path

    def _checked(self, table: Frame, count: int | None) -> tuple[list[Problem], pd.Series[bool]]:
        """What is wrong with labels, and which rows are good."""
        assert self.raw_range is not None
        name, problems = str(self.label_file), []
        if count is not None and len(table) != count:
            about = f"holds {len(table):,} labels, {self.title} has {count:,}: cut, or of another release?"
            problems.append(Problem("labels", name, about))
        unnamed = table["image"].isna() | (table["image"].astype(str).str.strip() == "")
        twice = table["image"].astype(str).str.lower().duplicated() & ~unnamed
        raw = pd.to_numeric(table["raw"], errors="coerce")
        outside = ~raw.between(*self.raw_range) & ~unnamed
        for row in table.index[unnamed]:
            problems.append(Problem("labels", name, f"label {row + 1} names no image"))
        for image in table["image"][twice]:
            problems.append(Problem("labels", name, f"{image} has more than one label"))
        low, high = self.raw_range
        for image, value in zip(table["image"][outside], table["raw"][outside], strict=True):
            problems.append(Problem("labels", name, f"{image}: score {value} is not in [{low:g}, {high:g}]"))
        if "split" in table:
            for image, split in zip(table["image"], table["split"], strict=True):
                if split not in SPLITS:
                    about = f"{image}: split {split} is none of {', '.join(SPLITS)}"
                    problems.append(Problem("labels", name, about))
        return problems, ~(unnamed | twice | outside)

    def _folders_in(self, tree: Tree, place: str) -> list[str]:
        """Places of the images, in lower case, ending with a slash or empty."""
        for alternative in self.folders:
            places = [f"{place}{folder}/".lower() if folder else place for folder in alternative]
            there = [folder for folder in places if any(file.startswith(folder) for file in tree.files)]
            if there:
                return there
        return [place]

    def _find(self, image_id: str) -> str | None:
        low = image_id.lower()
        return next((path for folder in self.image_folders if (path := self.tree.files.get(f"{folder}{low}"))), None)

    def expected_side(self) -> tuple[int, int] | None:
        """(width, height) that every image should have, if known."""
        return self.side

    def belongs(self, path: str) -> bool:
        """Whether an official file that is no labelled image has this path (in lower case)."""
        return bool(self.beside and re.fullmatch(self.beside, path.removeprefix(self._place)))
