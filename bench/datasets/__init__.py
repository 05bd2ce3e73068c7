"""Data sets by name. Unlike models, attacks and defenses they are few and need a folder, so they are listed in a table.

Other packages add their own through entry points of the group ``iqarena.datasets``.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from iqarena.bench.checkout import with_home
from iqarena.bench.datasets.base import ImageDataset
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.datasets.folder import Folder
from iqarena.bench.datasets.published.cid2013 import CID2013
from iqarena.bench.datasets.published.clive import CLIVE
from iqarena.bench.datasets.published.csiq import CSIQ
from iqarena.bench.datasets.published.kadid10k import KADID10k
from iqarena.bench.datasets.published.koniq10k import KonIQ10k
from iqarena.bench.datasets.published.live import LIVE
from iqarena.bench.datasets.published.pipal import PIPAL
from iqarena.bench.datasets.published.spaq import SPAQ
from iqarena.bench.datasets.published.tid2013 import TID2013
from iqarena.bench.datasets.published.vclfer import VCLFER
from iqarena.bench.datasets.tid2013_reconstructed.dataset import TID2013Reconstructed
from iqarena.bench.datasets.unlabelled import Images
from iqarena.bench.errors import UserError
from iqarena.bench.registry import Entry, by_name, installed, nearest, parse_spec, spec_texts, spec_words

DATASETS: dict[str, type[ImageDataset]] = {
    cls.name: cls
    for cls in (
        Demo,
        Folder,
        Images,
        LIVE,
        CSIQ,
        TID2013,
        TID2013Reconstructed,
        KADID10k,
        KonIQ10k,
        CLIVE,
        VCLFER,
        SPAQ,
        CID2013,
        PIPAL,
    )
}


@cache
def registered() -> dict[str, Entry[ImageDataset]]:
    """Return all registered data sets by name, including those of other packages; a broken one comes with its error."""
    embedded = [Entry(name, cls) for name, cls in DATASETS.items()]
    return by_name("data set", [*embedded, *installed("iqarena.datasets", ImageDataset)])  # type: ignore[type-abstract]


def dataset_class(spec: str) -> type[ImageDataset]:
    """Return the class of the data set ``name`` or ``name[parameter=value,…]``.

    Raises:
        UserError: for an unknown or broken data set.
    """
    name, _ = spec_texts(spec)
    entry = registered().get(name)
    if entry is None:
        raise UserError(f"unknown data set {name!r}; {nearest(name, list(registered()))}")
    if entry.cls is None:
        raise UserError(f"data set {name!r} is broken: {entry.error}")
    return entry.cls


def open_dataset(spec: str, root: Path | None = None) -> ImageDataset:
    """Open a data set by its registry name, with parameters in brackets where it has any (`folder` does).

    Raises:
        UserError: for an unknown name or parameter, or a root that does not contain the data set.

    Example:
        >>> open_dataset("demo").label_kind
        'pseudo-MOS'
    """
    cls = dataset_class(spec)
    return cls.open_with(root and with_home(root), spec_words(spec) if cls.verbatim else parse_spec(spec)[1])
