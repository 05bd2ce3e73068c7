"""The image store: images of a run in bounded memory."""

from __future__ import annotations

import pytest
import torch

from iqarena.bench.cells import expand
from iqarena.bench.datasets.base import ImageDataset, Sample
from iqarena.bench.datasets.image_store import AttackedImages, CleanImages
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.suite import validated
from tests.support.analytic_models import LinearModel
from tests.support.attack_runs import random_pixels

ONE = 3 * 16 * 16


class Counting(ImageDataset):
    """Random images that count how often they are decoded."""

    name, label_kind, fingerprint = "counting", "none", "0"

    def __init__(self, count: int = 10) -> None:
        self.samples = [Sample(str(i), f"r{i % 3}") for i in range(count)]
        self.made = random_pixels(count)
        self.decoded = [0] * count

    @classmethod
    def open(cls, root):
        return cls()

    def image(self, index):
        self.decoded[index] += 1
        return self.made[index]


def test_what_was_asked_for_last_is_kept_and_no_more_than_fits():
    dataset = Counting()
    images = CleanImages(dataset, [9, 1, 2, 3], memory=2 * ONE)
    assert len(images) == 4
    assert images.sizes == [(16, 16)] * 4
    assert len(set(images.hashes)) == 4
    assert dataset.decoded == [0, 1, 1, 1, 0, 0, 0, 0, 0, 1]
    for index in (2, 3, 2, 3):  # the last two of the first pass
        assert torch.equal(images[index], dataset.made[[9, 1, 2, 3][index]])
    assert sum(dataset.decoded) == 4
    assert torch.equal(images[0], dataset.made[9])
    assert torch.equal(images[3], dataset.made[3])
    assert sum(dataset.decoded) == 5
    with pytest.raises(IndexError):
        images[4]


def test_an_image_larger_than_the_memory_is_decoded_all_the_same():
    dataset = Counting()
    images = CleanImages(dataset, range(3), memory=1)
    assert [torch.equal(image, expected) for image, expected in zip(images, dataset.made, strict=False)] == [True] * 3


def test_attacked_images_that_do_not_fit_into_memory_go_to_files():
    images = random_pixels(5)
    attacked = AttackedImages(5, memory=2 * ONE)
    for index in (4, 0, 3, 1, 2):
        attacked.put(index, images[index])
    assert attacked.bytes == 2 * ONE
    assert all(torch.equal(one, other) for one, other in zip(attacked, images, strict=True))
    assert attacked[0].dtype == torch.uint8
    folder = attacked._folder
    assert len(list(folder.iterdir())) == 3
    del attacked
    assert not folder.exists()


def test_cells_come_out_the_same_in_little_memory(monkeypatch):
    suite = validated({"models": ["linear"], "attacks": ["fgsm", "random-noise"], "settings": ["adaptive"]})
    results = []
    for memory in (2**28, 2 * ONE):
        monkeypatch.setattr("iqarena.bench.datasets.image_store.CleanImages.__init__.__defaults__", (memory,))
        monkeypatch.setattr("iqarena.bench.datasets.image_store.AttackedImages.__init__.__defaults__", (memory,))
        dataset = Counting()
        evaluator = Evaluator(dataset, None, 4, {"linear": LinearModel()})
        rows = [evaluator.run(cell, evaluator.ids.cell_id(cell))[1] for cell in expand(suite)]
        assert (max(dataset.decoded) > 1) == (memory == 2 * ONE), "the case must not fit"
        results.append(rows)
    for one, other in zip(*results, strict=True):
        assert one.drop(columns="status").equals(other.drop(columns="status"))
        assert (one.status == "ok").all()


def test_clean_images_that_were_changed_in_memory_are_decoded_anew():
    dataset = Counting()
    expected = [image.clone() for image in dataset.made[:2]]
    images = CleanImages(dataset, range(2))
    assert not images.drop_changed()
    dataset.made = [image.clone() for image in dataset.made]
    images[1].flatten()[7] += 1
    assert images.drop_changed()
    assert [torch.equal(image, right) for image, right in zip(images, expected, strict=True)] == [True] * 2
    assert not images.drop_changed()


def test_attacked_images_that_were_changed_in_memory_are_not_intact():
    images = AttackedImages(2)
    for index, image in enumerate(random_pixels(2)):
        images.put(index, image)
    assert images.intact()
    images[1].zero_()
    assert not images.intact()
