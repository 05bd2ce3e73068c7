"""LPIPS against piq's with the same weights, and distances of the images that a run stored."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from typer import Typer
from typer.testing import CliRunner

from iqarena.bench.cells import expand
from iqarena.bench.cli import perceptual
from iqarena.bench.cli.perceptual import LPIPS, load_dists, load_lpips, measure
from iqarena.bench.errors import UserError
from iqarena.bench.evaluation.evaluator import Evaluator
from iqarena.bench.executors import local
from iqarena.bench.results.store import Records
from iqarena.bench.suite import validated
from tests.attacks.test_dists import small_weights
from tests.support.planted import Linear, planted_images

WIDTHS = (4, 5, 6, 7, 8)


def lpips_weights(widths=WIDTHS):
    """Return weights of a network of the given widths, under the names of torchvision and of the authors."""
    generator = torch.Generator().manual_seed(1)
    weights = {f"lin{n}.model.1.weight": torch.rand(1, width, 1, 1, generator=generator) for n, width in enumerate(widths)}
    return small_weights(widths) | weights


def noise(count: int, side: int, seed: int) -> torch.Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(seed))


def test_lpips_is_piqs(monkeypatch: pytest.MonkeyPatch) -> None:
    piq, torchvision = pytest.importorskip("piq"), pytest.importorskip("torchvision")
    weights = lpips_weights((64, 128, 256, 512, 512))
    vgg = torchvision.models.vgg  # without the classifier, whose 120 million weights nobody needs
    features = vgg.make_layers(vgg.cfgs["D"])
    features.load_state_dict(
        {name.partition(".")[2]: value for name, value in weights.items() if name.startswith("features")}
    )
    monkeypatch.setattr("piq.perceptual.vgg16", lambda **_: SimpleNamespace(features=features))
    layer_weights = [weights[f"lin{n}.model.1.weight"] for n in range(5)]
    monkeypatch.setattr("torch.hub.load_state_dict_from_url", lambda *_, **__: layer_weights)
    theirs, ours = piq.LPIPS(reduction="none"), LPIPS(weights)
    x, y = noise(2, 40, 0), noise(2, 40, 1)
    # float32 sums over some hundred thousand features
    assert torch.allclose(ours(x, y), theirs(x, y), rtol=1e-4)


def test_lpips_is_nought_for_the_same_image_and_grows_with_noise() -> None:
    lpips, clean, shift = LPIPS(lpips_weights()), noise(1, 32, 2), noise(1, 32, 3) - 0.5
    distances = [float(lpips((clean + share * shift).clamp(0, 1), clean)) for share in (0, 0.05, 0.2, 0.8)]
    assert distances[0] == 0
    assert distances == sorted(distances)


@pytest.mark.parametrize("load", [load_lpips, load_dists])
def test_weights_that_cannot_be_used_are_one_line_that_says_what_is_needed(load, tmp_path: Path) -> None:
    broken, empty = tmp_path / "broken.pth", tmp_path / "empty.pth"
    broken.write_bytes(b"nothing")
    torch.save({}, empty)
    for path in (tmp_path / "gone.pth", broken, empty):
        with pytest.raises(UserError, match="needed is one"):
            load(path)
    short = lpips_weights() | {"lin2.weight": torch.zeros(1, 2, 1, 1)}
    torch.save({name: value for name, value in short.items() if name != "lin2.model.1.weight"}, empty)
    if load is load_lpips:
        with pytest.raises(UserError, match=r"lin2\.weight"):
            load(empty)


@pytest.fixture
def kept(tmp_path: Path) -> Records:
    """Two cells that share their images, and one of another attack."""
    dataset, records = planted_images(tmp_path / "images"), Records(tmp_path / "out")
    suite = {
        "dataset": "folder",
        "models": ["linear"],
        "defenses": ["none", "flip"],
        "attacks": ["fgsm"],
        "settings": ["oblivious"],
    }
    evaluator = Evaluator(dataset, 6, 8, {"linear": Linear()})
    local.run(evaluator, expand(validated(suite)), records, report=lambda *_: None, keep_images=True)
    return records


def test_images_that_were_kept_are_measured_once_for_all_cells_that_share_them(kept: Records) -> None:
    asked = []

    def distance(attacked: torch.Tensor, clean: torch.Tensor) -> torch.Tensor:
        asked.append(float((attacked - clean).abs().max()))
        return (attacked - clean).abs().amax(dim=(1, 2, 3))

    table = measure(kept, kept.folder.parent / "images", {"largest": distance})
    assert len(table) == 2 * 6
    assert len(asked) == 6
    assert table.groupby("cell_id").size().tolist() == [6, 6]
    for cell_id, own in table.groupby("cell_id"):
        images = kept.images(str(cell_id))
        assert own.image_id.tolist() == images.image_id.tolist()
        assert own.largest.tolist() == pytest.approx(images.linf.tolist(), abs=1e-6)


def test_the_command_writes_a_table(kept: Records, tmp_path: Path) -> None:
    for name, weights in (("lpips", lpips_weights()), ("dists", small_weights())):
        torch.save(weights, tmp_path / f"{name}.pth")
    app = Typer()
    app.command()(perceptual.main)
    given = ["--lpips", str(tmp_path / "lpips.pth"), "--dists", str(tmp_path / "dists.pth")]
    done = CliRunner().invoke(app, [str(kept.folder), *given, "--root", str(tmp_path / "images")])
    assert done.exit_code == 0, done.output
    table = pd.read_csv(kept.folder / "perceptual.csv")
    assert list(table.columns) == ["cell_id", "image_id", "lpips", "dists"]
    assert (table[["lpips", "dists"]] > 0).all(axis=None)
    for wrong in ([str(kept.folder)], [str(tmp_path / "nowhere"), *given]):
        failed = CliRunner().invoke(app, wrong)
        assert failed.exit_code == 2
        assert len(failed.output.splitlines()) == 1
