"""The base class of readers of published data sets: one label file, read once; images found by name, in any case.

A reader is declarative: it lists the label files that a release may have and how to read each of them, the folders of the
images, and the range of the labels. Everything else is done here. Official label files are preferred. If there is none,
``labels.csv`` or ``labels.txt`` is used, with the columns `dis_img_path` (the data set's folder, then the official path),
`score` (raw) and, in data sets with references, `ref_img_path`: the format in which the IQA-Dataset project publishes the
labels of many data sets.
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
from iqarena.bench.datasets.tables import Frame, numeric, read_csv, renamed
from iqarena.bench.datasets.tree import Tree
from iqarena.bench.errors import UserError

COMMON = ("labels.csv", "labels.txt")


@dataclass(frozen=True)
class LabelFile:
    """One format in which the labels of a data set are published.

    Attributes:
        paths: official paths below the data set's folder, all required; the first one locates that folder. `*` matches any
            part of a name, and may match several files.
        read: reads the files into a frame with the columns image (official path below the image folder), raw and, where
            available, reference_id and split.
        raw_range: range of its labels, if it differs from the data set's.
    """

    paths: tuple[str, ...]
    read: Callable[[Sequence[Path]], Frame]
    raw_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Problem:
    """A problem of a data set on disk: its kind, the file, and a description."""

    kind: str
    file: str
    about: str


class PublishedSet(ImageFiles):
    """A published data set; subclasses set the class attributes.

    Attributes:
        title: name as its authors write it.
        label_files: formats of its labels, the preferred one first.
        folders: alternative lists of image folders; the first list of which any folder exists is used.
        beside: regular expression of other official files in these folders, below the data set's folder and in lower case.
        side: (width, height) of every image, if the release states it.
        common_count: number of labels in the ``labels.csv`` of the IQA-Dataset project, if it differs from `count`.
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
        """Read the labels; the images are not needed yet.

        Raises:
            UserError: if the root or its label file is not of this data set, or a label is wrong.
        """
        self._index(root)
        if self.label_problems:
            first = self.label_problems[0]
            more = f" (and {len(self.label_problems) - 1:,} more: {self._verify()})" if len(self.label_problems) > 1 else ""
            raise UserError(f"{first.file}: {first.about}{more}")

    @classmethod
    def open(cls, root: Path | None) -> PublishedSet:
        """Open the data set and check that all its image files exist; they are not decoded yet.

        Raises:
            UserError: also if an image is missing, since a part of a data set would be another benchmark.
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
        """Read the labels as the constructor does, but collect wrong labels in `label_problems` and omit their images."""
        dataset = cls.__new__(cls)
        dataset._index(root)
        return dataset

    def file(self, index: int) -> Path:
        path = self.paths[index]
        return self.root / (path if path is not None else f"{self._folder}{self.samples[index].image_id}")

    def _verify(self) -> str:
        return f"iqarena data verify {self.name} --root {self.root}"

    def _index(self, root: Path) -> None:
        self.root, tree = root, Tree(root)
        label_format, folder, files = self._find_labels(tree)
        self._folder, self.label_file = folder, files[0]
        self.raw_range = label_format.raw_range or self.raw_range
        table = label_format.read(files)
        common = files[0].name.lower() in COMMON
        expected_count = self.common_count if common and self.common_count else self.count
        self.label_problems, good = self._check_labels(table, expected_count)
        table = table[good]
        if "reference_id" not in table:  # authentic distortions: every image is its own reference
            table = table.assign(reference_id=table["image"])
        rows = zip(table["image"], table["reference_id"], table["raw"].astype(float), strict=True)
        self.samples = [Sample(str(image), str(reference), self._label(raw), raw) for image, reference, raw in rows]
        self.official = list(table["split"]) if "split" in table else None
        self.image_folders = self._find_image_folders(tree, folder)
        self.tree = tree
        self.paths = [self._find_image(sample.image_id) for sample in self.samples]
        digest = hashlib.sha256(self.name.encode())
        for file in files:
            digest.update(file.read_bytes())
        self.fingerprint = digest.hexdigest()

    def _find_labels(self, tree: Tree) -> tuple[LabelFile, str, list[Path]]:
        """Return the label format to use, the folder below which its official paths lie, and its files."""
        for label_format in (*self.label_files, *(LabelFile((name,), self._read_common) for name in COMMON)):
            first_path = label_format.paths[0]
            folders = tree.folders_with(first_path)
            if not folders:
                continue
            if len(folders) > 1 and folders[0].count("/") == folders[1].count("/"):
                two = " and ".join(f"{folder}{first_path}" for folder in folders[:2])
                raise UserError(f"{tree.root}: holds {two}; give the folder of one of them with --root")
            matches = [tree.matching(folders[0], path) for path in label_format.paths]
            for path, files in zip(label_format.paths, matches, strict=True):
                if not files:
                    raise UserError(
                        f"{tree.root}: holds {folders[0]}{first_path} but no {path}, which {self.title} needs too"
                    )
            return label_format, folders[0], [file for files in matches for file in files]
        known = ", ".join(label_format.paths[0] for label_format in self.label_files)
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
        """Return the official path below the image folder, from a path that starts with the data set's folder."""
        path = path.partition("/")[2]
        for folder in (folder for folders in cls.folders for folder in folders if folder):
            path = path.removeprefix(f"{folder}/")
        return path

    def _check_labels(self, table: Frame, count: int | None) -> tuple[list[Problem], pd.Series[bool]]:
        """Return the problems of the labels, and which rows are good."""
        assert self.raw_range is not None
        name, problems = str(self.label_file), []
        if count is not None and len(table) != count:
            about = f"holds {len(table):,} labels, {self.title} has {count:,}: cut, or of another release?"
            problems.append(Problem("labels", name, about))
        unnamed = table["image"].isna() | (table["image"].astype(str).str.strip() == "")
        twice = table["image"].astype(str).str.lower().duplicated() & ~unnamed
        raw = numeric(table["raw"])
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

    def _find_image_folders(self, tree: Tree, folder: str) -> list[str]:
        """Return the folders of the images, in lower case, ending with a slash or empty."""
        for alternative in self.folders:
            candidates = [f"{folder}{name}/".lower() if name else folder for name in alternative]
            existing = [candidate for candidate in candidates if any(file.startswith(candidate) for file in tree.files)]
            if existing:
                return existing
        return [folder]

    def _find_image(self, image_id: str) -> str | None:
        low = image_id.lower()
        return next((path for folder in self.image_folders if (path := self.tree.files.get(f"{folder}{low}"))), None)

    def expected_size(self) -> tuple[int, int] | None:
        """Return the (width, height) that every image should have, if known."""
        return self.side

    def belongs(self, path: str) -> bool:
        """Check whether a path (in lower case) is that of an official file other than a labelled image."""
        return bool(self.beside and re.fullmatch(self.beside, path.removeprefix(self._folder)))
