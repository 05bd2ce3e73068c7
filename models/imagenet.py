"""ImageNet weights for the backbones of models whose training starts from them.

They are not shipped and never downloaded implicitly. The user gives a file or requests torchvision's loader, the only part
that needs torchvision and network access.
"""

from __future__ import annotations

import hashlib
from importlib import import_module
from pathlib import Path
from typing import ClassVar
from urllib.parse import urlsplit

import torch
from torch import nn

from iqarena.models.zoo import WeightsError, read_state

FETCH = "imagenet"
"""Value that requests a download through torchvision instead of a file."""

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

_TORCHVISION = {  # torchvision's name of the weights of each backbone
    "resnet18": "ResNet18_Weights.IMAGENET1K_V1",
    "resnet50": "ResNet50_Weights.IMAGENET1K_V2",
    "resnext101_32x8d": "ResNeXt101_32X8D_Weights.IMAGENET1K_V2",
    "vgg16": "VGG16_Weights.IMAGENET1K_V1",
}

_CLASSIFIERS = ("fc.", "classifier.")
_INSIDE = "features."  # VGG's convolutions, in torchvision's files


class OnImageNet:
    """A mixin for models with a backbone that has ImageNet weights.

    Attributes:
        imagenet: torchvision's name of the backbone.
        added: name prefixes of weights in the backbone that torchvision's file does not have.
    """

    imagenet: ClassVar[str]
    added: ClassVar[tuple[str, ...]] = ()

    @property
    def trunk(self) -> nn.Module:
        """The backbone."""
        raise NotImplementedError


def normalized(images: torch.Tensor) -> torch.Tensor:
    """Normalise images (N, 3, H, W) in [0, 1] for networks trained on ImageNet."""
    return (images - images.new_tensor(_MEAN).view(3, 1, 1)) / images.new_tensor(_STD).view(3, 1, 1)


def load_backbone(model: OnImageNet, source: str) -> str:
    """Load ImageNet weights into the backbone of a model.

    Args:
        model: the model.
        source: a file with a state dict in torchvision's names, or `FETCH`.

    Returns:
        The sha256 of the file.

    Raises:
        WeightsError: if the file cannot be obtained, is not the one named by torchvision, or does not match.
    """
    path = _fetched(model.imagenet) if source == FETCH else Path(source)
    state = {
        name.removeprefix(_INSIDE): value for name, value in read_state(path).items() if not name.startswith(_CLASSIFIERS)
    }
    try:
        lacking, unknown = model.trunk.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise WeightsError(f"{path}: not of {model.imagenet} ({str(error).splitlines()[-1].strip()})") from None
    if wrong := [*unknown, *(name for name in lacking if not name.startswith(model.added or ("\0",)))]:
        raise WeightsError(f"{path}: not of {model.imagenet} ({', '.join(wrong[:3])})")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fetched(backbone: str) -> Path:
    """Return torchvision's file in torch.hub's folder, downloaded if it is missing, and verified in either case."""
    try:
        library = import_module("torchvision.models")
    except Exception as error:  # with a torch of another build it raises RuntimeError
        raise WeightsError(
            f"ImageNet weights come through torchvision, which cannot be imported ({error}); name a file"
        ) from None
    weights = library.get_weight(_TORCHVISION[backbone])
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlsplit(weights.url).path).name
    try:
        weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:
        raise WeightsError(f"{weights.url}: cannot be fetched ({' '.join(str(error).split())}); name a file") from None
    # torchvision verifies downloads only, not existing files; the file name ends in the first digits of the hash
    hash_prefix = path.stem.rpartition("-")[2]
    if not hashlib.sha256(path.read_bytes()).hexdigest().startswith(hash_prefix):
        raise WeightsError(f"{path}: its sha256 does not begin with {hash_prefix}; delete the file")
    return path
