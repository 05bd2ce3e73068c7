"""Images of a data set of someone's own: converted where that is certain, else refused, never scored as something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from iqarena.bench.datasets.base import ImageDataset, Sample, Subset
from iqarena.bench.datasets.image_store import CleanImages
from iqarena.bench.datasets.pixels import as_rgb, rgb_image
from iqarena.bench.errors import UserError
from tests.support.fuzz import refusal

LEVELS = np.random.RandomState(0).randint(0, 256, (9, 7, 3), dtype=np.uint8)
RIGHT = torch.from_numpy(LEVELS.transpose(2, 0, 1).copy())
FIRST = RIGHT.numpy()

CERTAIN = {
    "uint8": RIGHT,
    "not contiguous": torch.from_numpy(LEVELS).permute(2, 0, 1),
    "NumPy": FIRST,
    "channels last": torch.from_numpy(LEVELS),
    "NumPy, channels last": LEVELS,
    "reversed NumPy": FIRST[:, ::-1][:, ::-1],
    "Pillow": Image.fromarray(LEVELS),
    "with a gradient": (RIGHT.float() / 255).requires_grad_(),
    "float32 in [0, 1]": RIGHT.float() / 255,
    "float64 in [0, 1]": RIGHT.double() / 255,
    "float16 in [0, 1]": (RIGHT.float() / 255).half(),
    "float32 levels": RIGHT.float(),
    "int64": RIGHT.long(),
    "int16": RIGHT.short(),
    "uint16, full range": RIGHT.to(torch.int32).numpy().astype(np.uint16) * 257,
    "big-endian": FIRST.astype(">i4"),
}


@pytest.mark.parametrize("form", CERTAIN)
def test_a_form_that_is_certain_is_converted(form):
    image = as_rgb(CERTAIN[form], "x")
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image, RIGHT)


UNCERTAIN = {
    "bool": (RIGHT > 128, "bool"),
    "int8": (RIGHT.to(torch.int8), "int8"),
    "uint16, not of 8 bits": (FIRST.astype(np.uint16) * 255, "uint16"),
    "uint16 levels": (FIRST.astype(np.uint16), "uint16"),
    "floats between the levels": (RIGHT.float() / 255 * 0.99, "float32"),
    "floats between the levels, to 255": (RIGHT.float() * 0.99, "float32"),
    "zeros and ones": (torch.ones(3, 8, 8), "from 1.0 to 1.0"),
    "zeros and ones, whole": (torch.ones(3, 8, 8, dtype=torch.int64), "int64"),
    "standardised": (RIGHT.float() / 128 - 1, "numbers from -0.9"),
    "too large": (RIGHT.long() * 2, "int64"),
    "NaN": (torch.full((3, 8, 8), torch.nan), "nan"),
    "infinite": (torch.full((3, 8, 8), torch.inf), "inf"),
    "complex": (RIGHT.to(torch.complex64), "complex64"),
    "bfloat16": (RIGHT.bfloat16(), "bfloat16"),
    "sparse": (RIGHT.float().to_sparse(), "tensor of torch.float32"),
    "text": (FIRST.astype(str), "<U3"),
    "objects": (FIRST.astype(object), "object"),
    "grey": (RIGHT[0], "shape (9, 7)"),
    "one channel": (RIGHT[:1], "shape (1, 9, 7)"),
    "four channels": (torch.zeros(4, 9, 7, dtype=torch.uint8), "shape (4, 9, 7)"),
    "a batch": (RIGHT[None], "shape (1, 3, 9, 7)"),
    "empty": (torch.zeros(3, 0, 7, dtype=torch.uint8), "shape (3, 0, 7)"),
    "Pillow, grey": (Image.new("L", (9, 9)), "mode L"),
    "Pillow, alpha": (Image.new("RGBA", (9, 9)), "mode RGBA"),
    "nothing": (None, "NoneType"),
    "a path": ("a.png", "str"),
}


@pytest.mark.parametrize("form", UNCERTAIN)
def test_a_form_that_is_not_certain_is_one_line(form):
    image, expected = UNCERTAIN[form]
    message = refusal(lambda: as_rgb(image, "data set 'mine', image 3"), UserError)
    assert message.startswith("data set 'mine', image 3: ")
    assert expected in message


class Mine(ImageDataset):
    """A data set that returns its images in a given form."""

    name, label_kind, fingerprint = "mine", "none", "0"

    def __init__(self, made, ids=("a", "b")):
        self.made, self.samples = made, [Sample(image_id, image_id) for image_id in ids]

    @classmethod
    def open(cls, root):
        raise NotImplementedError

    def image(self, index):
        return self.made


def test_images_are_checked_wherever_those_of_a_data_set_are_read():
    for form in CERTAIN.values():
        mine = Mine(form)
        corner = mine.part(0, lambda height, width: (height - 2, width - 3, 2, 3))
        assert torch.equal(corner, RIGHT[:, -2:, -3:])
        images = CleanImages(mine, [1, 0])
        assert images.sizes == [(9, 7)] * 2
        assert torch.equal(images[0], RIGHT)
        assert torch.equal(Subset(mine, [1]).image(0), RIGHT)
        assert torch.equal(Subset(mine, [1]).part(0, lambda height, width: (0, 0, 4, 5)), RIGHT[:, :4, :5])
    wrong = Mine(RIGHT > 128)
    for read in (
        lambda: CleanImages(wrong, [0]),
        lambda: Subset(wrong, [0]).image(0),
        lambda: wrong.part(0, lambda height, width: (0, 0, 1, 1)),
    ):
        assert refusal(read, UserError).startswith("data set 'mine', image 0: has bool numbers from False to True")


def test_what_is_done_to_an_image_of_a_run_does_not_change_the_data_set():
    mine = Mine(RIGHT.clone())
    rgb_image(mine, 0).zero_()
    CleanImages(mine, [0])[0].zero_()
    assert torch.equal(mine.made, RIGHT)


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        (("a", "a"), "image 'a': its name is there twice"),
        (("a", ""), "image '': its name is empty"),
        (("a", "b\rc"), "image 'b?c': its name has a line break or another control character"),
        (("a", "b\u2028c"), "has a line break"),
        (("a", "\0"), "another control character"),
        (("a", "\udcff.png"), "is not UTF-8"),
        (("a", 3), "image '3': its name is no text"),
    ],
)
def test_an_id_that_no_table_can_have_is_refused_before_the_run(ids, expected):
    assert expected in refusal(lambda: CleanImages(Mine(RIGHT, ids), [0, 1]), UserError)
