"""`iqarena explain`: the numbers of an explanation of CPRL against the model itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from iqarena.bench.cli.explain import explain, write
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import UserError
from iqarena.defenses.cprl.cprl import CPRL
from iqarena.models.resnet_iqa import ResNetIQA


@pytest.fixture(scope="module")
def image(tmp_path_factory, natural):
    path = tmp_path_factory.mktemp("explain") / "a.png"
    Image.fromarray(natural[:96, :96]).save(path)
    return path


@pytest.fixture(scope="module")
def explained(image):
    return explain(image, "resnet-iqa", "cprl", attack="score-reflection-away[steps=3]")


def test_an_explanation_holds_the_models_own_numbers(explained):
    assert explained.clean.shape == explained.attacked.shape == (96, 96, 3)
    assert np.abs(explained.clean.astype(int) - explained.attacked.astype(int)).max() <= 2
    assert explained.cpr.shape == (6, 6)
    assert len(explained.channels) == 128
    assert explained.channels["mask"].between(0, 1).all()
    # half of the channels is kept, softly
    assert explained.channels["mask"].sum() == pytest.approx(64, abs=8)
    swaps = explained.swaps.set_index("from_attacked")
    assert list(swaps.index) == ["none", "do(N)", "do(C)", "both"]
    # nothing swapped is the clean image, everything the attacked one, whatever the mask
    for name, quality in (("none", explained.clean_quality), ("both", explained.attacked_quality)):
        for column in ("quality", "random_mean", "random_least", "random_most"):
            assert swaps.loc[name, column] == pytest.approx(quality, abs=1e-3), (name, column)
    assert 0 <= explained.overlap <= 1
    assert explained.overlap_by_chance == pytest.approx(0.5, abs=0.07)


def test_a_channels_numbers_are_those_of_the_model_run_by_hand(explained):
    model = CPRL().protect(ResNetIQA().eval())
    demo = Demo()

    def features(pixels):
        return model.model.features(pixels[None].float() / 255)

    def quality(maps):
        return float(model.model.head(model.activation(maps), 1))

    with torch.no_grad():
        before, after = (features(torch.tensor(a).permute(2, 0, 1)) for a in (explained.clean, explained.attacked))
        maps_of_demo = [features(demo.image(i)) for i in demo.spread(24)]
        mean_maps = torch.stack([maps.mean(dim=(0, 2, 3)) for maps in maps_of_demo]).mean(0)
        for channel in (0, 77):
            out, swapped = before.clone(), before.clone()
            out[0, channel], swapped[0, channel] = mean_maps[channel], after[0, channel]
            row = explained.channels.loc[channel]
            assert row["effect"] == pytest.approx(abs(quality(out) - quality(before)), abs=1e-5)
            assert row["adversarial_effect"] == pytest.approx(quality(swapped) - quality(before), abs=1e-5)
            moved = (after - before)[0, channel].abs().mean() / np.mean(
                [maps[0, channel].abs().mean() for maps in maps_of_demo]
            )
            assert row["shift"] == pytest.approx(float(moved), rel=1e-3)


def test_an_explanation_is_written_as_one_image_and_one_table(explained, tmp_path):
    image, table = write(explained, "a", tmp_path / "new")
    assert table.read_text().splitlines()[0] == "channel,mask,mask_attacked,effect,shift,adversarial_effect"
    with Image.open(image) as opened:
        assert opened.size[0] > 900


@pytest.mark.parametrize(
    ("defense", "message"),
    [("adversarial-training", "does not part features"), ("cprl[keep=0.4]", "was trained with keep=0.5")],
)
def test_what_cannot_be_explained_is_one_line(image, defense, message):
    with pytest.raises(UserError, match=message):
        explain(image, "resnet-iqa", defense, attack="fgsm")
