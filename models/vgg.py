"""The convolutions of VGG-16 as a backbone (Simonyan, Zisserman, arXiv 1409.1556)."""

from __future__ import annotations

from torch import nn

_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg16_maps() -> nn.Sequential:
    """Build the thirteen 3×3 convolutions without the last pooling: 1/16 of the height and width of normalised images.

    The layer numbers are those of ``torchvision.models.vgg16().features``, so that its ImageNet weights can be loaded.
    """
    layers: list[nn.Module] = []
    before = 3
    for block in _CHANNELS:
        for after in block:
            layers += [nn.Conv2d(before, after, 3, padding=1), nn.ReLU()]
            before = after
        layers.append(nn.MaxPool2d(2))
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return nn.Sequential(*layers[:-1])
