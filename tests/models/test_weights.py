"""Sources of weights: files that contain only tensors, cards, and ImageNet weights for a backbone."""

from __future__ import annotations

import hashlib
import io
import pickle
import sys
import tarfile
import types
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from iqarena.bench.datasets.folder import Folder
from iqarena.bench.errors import UserError
from iqarena.bench.inference.loading import load_model
from iqarena.bench.registry import MODELS
from iqarena.bench.training import fit
from iqarena.defenses.training.loop import Schedule
from iqarena.models.imagenet import OnImageNet, load_backbone
from iqarena.models.resnet import ResNet
from iqarena.models.resnet18_iqa import ResNet18IQA
from iqarena.models.resnet_iqa import ResNetIQA
from iqarena.models.zoo import WeightsError, load_weights, save_weights, weight_file
from tests.support.attack_runs import random_pixels


class Bomb:
    """An object whose pickle contains code: loading it would create a file."""

    def __init__(self, executed: Path) -> None:
        self.ran = executed

    def __reduce__(self):
        return Path.touch, (self.ran,)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    return {"layer.weight": torch.tensor([[1.0, 2.0]]), "layer.bias": torch.tensor([3.0])}


# --- files


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl"])
@pytest.mark.parametrize("wrapped", ["plain", "checkpoint", "parallel"])
def test_a_state_dict_is_found_in_a_file_of_pytorchs(state, tmp_path, suffix, wrapped):
    file = tmp_path / f"some{suffix}"
    saved = {
        "plain": state,
        "checkpoint": {"state_dict": state, "epoch": 3},
        "parallel": {f"module.{name}": value for name, value in state.items()},
    }[wrapped]
    torch.save(saved, file)
    module = Small()
    assert load_weights(module, file) == hashlib.sha256(file.read_bytes()).hexdigest()
    assert module.layer.bias.item() == 3


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".pkl", ".safetensors"])
@pytest.mark.parametrize("kind", ["torch", "pickle", "inside", "tar"])
def test_a_pickle_with_code_is_refused_and_never_runs(state, tmp_path, suffix, kind):
    executed, file = tmp_path / "ran", tmp_path / f"bomb{suffix}"
    if kind == "torch":
        torch.save(Bomb(executed), file)
    elif kind == "inside":
        torch.save({"state_dict": state, "optimizer": Bomb(executed)}, file)
    elif kind == "pickle":
        file.write_bytes(pickle.dumps(Bomb(executed)))
    else:
        with tarfile.open(file, "w") as archive:
            content = pickle.dumps(Bomb(executed))
            member = tarfile.TarInfo("pickle")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with pytest.raises(WeightsError) as refused:
        load_weights(Small(), file)
    assert not executed.exists()
    assert "\n" not in str(refused.value)
    assert str(file) in str(refused.value)


def test_code_in_the_weights_of_a_model_is_one_line_for_the_user(tmp_path):
    torch.save(Bomb(tmp_path / "ran"), tmp_path / "bomb.pth")
    with pytest.raises(UserError, match="refused, not tensors alone") as refused:
        load_model(f"resnet18-iqa[weights={tmp_path / 'bomb.pth'}]")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("content", [b"", b"garbage" * 50])
def test_broken_files_are_one_line(tmp_path, content):
    file = tmp_path / "broken.pth"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=r"not tensors alone|not a weight file of PyTorch") as refused:
        load_weights(Small(), file)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(("saved", "message"), [({}, "dict"), ([torch.ones(1)], "list"), ({"step": 3}, "step")])
def test_a_file_without_a_state_dict_says_what_it_holds(tmp_path, saved, message):
    torch.save(saved, tmp_path / "none.pth")
    with pytest.raises(WeightsError, match=rf"holds 0 state dicts \({message}\)"):
        load_weights(Small(), tmp_path / "none.pth")


def test_two_state_dicts_are_one_too_many(state, tmp_path):
    torch.save({"model": state, "ema": state}, tmp_path / "two.pth")
    with pytest.raises(WeightsError, match=r"holds 2 state dicts \(model, ema\); save the one alone"):
        load_weights(Small(), tmp_path / "two.pth")


def test_weights_of_another_network_are_named(state, tmp_path):
    save_file(state, tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match="not the weights of ResNetIQA"):
        load_weights(ResNetIQA(), tmp_path / "small.safetensors")
    with pytest.raises(WeightsError, match=r"cannot be read \(No such file or directory\)"):
        load_weights(Small(), tmp_path / "none.safetensors")


def test_a_file_that_differs_from_its_card_is_refused(tmp_path):
    file = tmp_path / "small.safetensors"
    save_weights(Small(), file, {"model": "small"})
    load_weights(Small(), file)
    save_file({"layer.weight": torch.zeros(1, 2), "layer.bias": torch.zeros(1)}, file)
    with pytest.raises(WeightsError, match=r"is not the .* of its card; restore the file"):
        load_weights(Small(), file)


# --- models


@pytest.mark.parametrize("name", MODELS.names())
def test_every_model_is_there_or_says_which_weights_it_wants(name):
    cls = MODELS.find(name)
    if cls.weights_wanted:
        with pytest.raises(UserError, match=rf"comes without weights; give {name}\[weights=FILE\]") as refused:
            load_model(name)
        assert "\n" not in str(refused.value)
    else:
        model = load_model(name)
        assert model.info.weights_sha256 == hashlib.sha256(weight_file(name).read_bytes()).hexdigest()
        assert not model.training


@pytest.fixture
def brought(tmp_path) -> Path:
    torch.manual_seed(0)
    file = tmp_path / "mine.safetensors"
    save_file(ResNetIQA().state_dict(), file)
    return file


def test_facts_of_other_weights_stand_beside_them(brought):
    model = load_model(f"resnet-iqa[weights={brought},low=0,high=100,higher_is_better=false]")
    assert model.info.score_range == (0, 100)
    assert not model.info.higher_is_better
    assert model.info.min_size == ResNetIQA.info.min_size
    assert ResNetIQA.info.score_range == (0, 1)
    images = random_pixels(2, 64, 64).float() / 255
    with torch.inference_mode():
        torch.testing.assert_close(model.quality(images), 1 - model(images) / 100)


@pytest.mark.parametrize(
    ("brackets", "expected"),
    [
        ("low=0", "has no parameter 'low'; its only one is weights=FILE"),
        ("size=3", "has no parameter 'size'"),
        ("weights=FILE,size=3", "has no parameter 'size'"),
        ("weights=FILE,high=-1", "score_range must be"),
        ("weights=FILE,low=few", "low: Input should be a valid number"),
    ],
)
def test_wrong_facts_are_one_line(brought, brackets, expected):
    with pytest.raises(UserError, match=expected) as refused:
        load_model(f"resnet-iqa[{brackets.replace('FILE', str(brought))}]")
    assert "\n" not in str(refused.value)


# --- ImageNet


@pytest.fixture
def published(tmp_path) -> Path:
    """A weights file as torchvision publishes them, with the classifier; the name contains the start of its hash."""
    torch.manual_seed(0)
    whole = ResNet("resnet18").state_dict() | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(whole, tmp_path / "some.pth")
    begins = hashlib.sha256((tmp_path / "some.pth").read_bytes()).hexdigest()[:8]
    return (tmp_path / "some.pth").rename(tmp_path / f"resnet18-{begins}.pth")


def test_a_backbone_takes_imagenet_weights_from_a_file(published):
    model = ResNet18IQA()
    before = model.regress[0].weight.clone()
    assert load_backbone(model, str(published)) == hashlib.sha256(published.read_bytes()).hexdigest()
    wanted = torch.load(published, weights_only=True)
    for name, value in model.backbone.state_dict().items():
        assert torch.equal(value, wanted[name]), name
    assert torch.equal(model.regress[0].weight, before)


def test_vggs_convolutions_are_taken_out_of_the_whole(tmp_path):
    model = MODELS.find("dbcnn")()
    state = {f"features.{name}": value + 1 for name, value in model.trunk.state_dict().items()}
    torch.save(state | {"classifier.0.weight": torch.zeros(1)}, tmp_path / "vgg16.pth")
    load_backbone(model, str(tmp_path / "vgg16.pth"))
    assert torch.equal(model.features1[0].bias, state["features.0.bias"])


def test_what_imagenet_does_not_know_is_left_as_it_is(tmp_path):
    model = MODELS.find("hyperiqa")()
    before = model.res.lda1_fc.weight.clone()
    torch.save(ResNet("resnet50").state_dict(), tmp_path / "resnet50.pth")
    load_backbone(model, str(tmp_path / "resnet50.pth"))
    assert torch.equal(model.res.lda1_fc.weight, before)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda state: state.pop("layer4.1.bn2.weight"), r"not of resnet18 \(layer4\.1\.bn2\.weight\)"),
        (lambda state: state.update({"layer5.weight": torch.zeros(1)}), r"not of resnet18 \(layer5\.weight\)"),
        (lambda state: state.update({"conv1.weight": torch.zeros(64, 3, 3, 3)}), "not of resnet18 .*size mismatch"),
    ],
)
def test_weights_of_another_backbone_are_refused_in_a_line(published, change, expected):
    state = torch.load(published, weights_only=True)
    change(state)
    torch.save(state, published)
    with pytest.raises(WeightsError, match=expected) as refused:
        load_backbone(ResNet18IQA(), str(published))
    assert "\n" not in str(refused.value)


@pytest.fixture
def torchvision(monkeypatch, published, tmp_path):
    """A stand-in for torchvision's loader, which fetches the published file into torch.hub's folder."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder.parent))
    fetched = []

    class Weights:
        url = f"https://download.example/{published.name}"

        def get_state_dict(self, *, progress, check_hash, weights_only):
            assert check_hash
            assert weights_only
            if not (folder / published.name).exists():
                fetched.append(self.url)
                (folder / published.name).write_bytes(published.read_bytes())
            return torch.load(folder / published.name, weights_only=weights_only)

    stand_in = types.ModuleType("torchvision.models")
    stand_in.get_weight = lambda name: Weights() if name == "ResNet18_Weights.IMAGENET1K_V1" else pytest.fail(name)
    stand_in.fetched, stand_in.folder, stand_in.weights = fetched, folder, Weights
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", stand_in)
    return stand_in


def test_weights_are_fetched_when_they_are_asked_for_and_only_once(torchvision, published):
    for _ in range(2):
        model = ResNet18IQA()
        assert load_backbone(model, "imagenet") == hashlib.sha256(published.read_bytes()).hexdigest()
        assert torch.equal(model.backbone.conv1.weight, torch.load(published, weights_only=True)["conv1.weight"])
    assert torchvision.fetched == [f"https://download.example/{published.name}"]


def test_a_file_that_was_there_with_another_hash_is_refused(torchvision, published):
    state = torch.load(published, weights_only=True)
    torch.save(state | {"conv1.weight": state["conv1.weight"] + 1}, torchvision.folder / published.name)
    with pytest.raises(WeightsError, match=r"its sha256 does not begin with .*; delete the file"):
        load_backbone(ResNet18IQA(), "imagenet")


def test_without_network_or_torchvision_one_line_says_what_to_do(torchvision, monkeypatch):
    def offline(self, **options):
        raise OSError("<urlopen error\n[Errno -2] Name or service not known>")

    monkeypatch.setattr(torchvision.weights, "get_state_dict", offline)
    with pytest.raises(WeightsError, match=r"cannot be fetched .*; name a file") as refused:
        load_backbone(ResNet18IQA(), "imagenet")
    assert "\n" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(WeightsError, match="come through torchvision, which cannot be imported"):
        load_backbone(ResNet18IQA(), "imagenet")


def test_torchvision_knows_all_of_these_weights():
    library = pytest.importorskip("torchvision.models", exc_type=Exception, reason="needs torchvision")
    from iqarena.models.imagenet import _TORCHVISION

    wanted = {cls.imagenet for cls in map(MODELS.find, MODELS.names()) if issubclass(cls, OnImageNet)}
    assert wanted == set(_TORCHVISION)
    for backbone, name in _TORCHVISION.items():
        url = library.get_weight(name).url
        assert Path(url).name.startswith(backbone)
        int(Path(url).stem.rpartition("-")[2], 16)  # the beginning of its sha256


@pytest.fixture
def rated(tmp_path) -> Folder:
    root = tmp_path / "rated"
    root.mkdir()
    for number, pixels in enumerate(random_pixels(8, 40, 40).permute(0, 2, 3, 1).numpy()):
        Image.fromarray(pixels).save(root / f"{number}.png")
    rows = "".join(f"{number}.png,{number},{number / 8},training\n" for number in range(8))
    (root / "labels.csv").write_text("image,reference_id,mos,split\n" + rows)
    return Folder(root)


def test_a_training_starts_from_imagenet_and_its_card_says_so(published, rated, tmp_path, monkeypatch):
    monkeypatch.setattr("iqarena.bench.training.srocc", lambda *_: 0.5)
    seen = []
    monkeypatch.setattr(
        "iqarena.bench.training.train", lambda model, *_, **__: seen.append(model.backbone.conv1.weight.clone()) or {}
    )
    schedule = Schedule(passes=8, batch=4, crop=32, workers=0)
    file = fit("resnet18-iqa", "none", rated, schedule, tmp_path / "out", backbone=str(published))
    assert torch.equal(seen[0], torch.load(published, weights_only=True)["conv1.weight"])
    started = yaml.safe_load(file.with_suffix(".yaml").read_text())["start"]
    assert started == {"backbone": "resnet18", "backbone_sha256": hashlib.sha256(published.read_bytes()).hexdigest()}


def test_a_training_that_cannot_start_from_there_is_one_line(published, rated, tmp_path):
    schedule = Schedule(passes=8, batch=4, crop=32, workers=0)
    for name, options, expected in (
        ("cnniqa", {"backbone": str(published)}, "cnniqa has no ImageNet backbone"),
        ("resnet18-iqa", {"backbone": str(published), "start": published}, "name one of the two"),
        ("resnet18-iqa", {"backbone": str(tmp_path / "none.pth")}, r"cannot be read \(No such file or directory\)"),
        ("dbcnn", {"backbone": str(published)}, "not of vgg16"),
    ):
        with pytest.raises(UserError, match=expected) as refused:
            fit(name, "none", rated, schedule, tmp_path / "out", **options)
        assert "\n" not in str(refused.value)
