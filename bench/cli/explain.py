"""`iqarena explain`: the features that a CPRL-defended model keeps, clean and attacked, and their effect on quality.

CPRL is our reconstruction from the abstracts of arXiv 2404.19567 and its journal version; so are the swap test and the
measures of a channel here. Each number of the model's mask comes with the same number for random masks of equal size.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch.nn import functional

from iqarena.bench.cli.attack_image import attacked
from iqarena.bench.datasets.demo.dataset import Demo
from iqarena.bench.errors import UserError
from iqarena.bench.inference.target import frozen
from iqarena.bench.leaderboard.plots.style import COLORS, GREY, INK, styled
from iqarena.bench.results.files import Pixels, as_array
from iqarena.defenses.cprl.model import CPRLModel

CONTROLS = 32
"""Number of random masks, which keep other channels by the same amounts."""
USUAL = 24
"""Number of demo images whose mean replaces a channel that is taken out."""

SWAPS = (("none", False, False), ("do(N)", False, True), ("do(C)", True, False), ("both", True, True))
"""Name, and whether CPR and N-CPR come from the attacked image."""

Map = NDArray[np.float32]


@dataclass(frozen=True)
class Explanation:
    """The result of `explain`.

    Attributes:
        title: one line with attack, threat model, model and defense.
        clean, attacked: the images, (H, W, 3) uint8.
        clean_quality, attacked_quality: qualities from the deployed model.
        cpr, ncpr: mean |CPR| and mean |N-CPR| over the channels of the clean image, (h, w), the size of the feature maps.
        cpr_attacked, ncpr_attacked: the same for the attacked image.
        channels: a row per channel. ``mask`` and ``mask_attacked`` are in [0, 1]; ``effect`` is |change of quality| when the
            channel is set to its usual value, ``shift`` is mean |z' − z| in units of its usual mean |z|, and
            ``adversarial_effect`` is the change of quality when the clean channel becomes the attacked one.
        swaps: a row per swap: quality when only N-CPR, only CPR or both come from the attacked image, with the model's
            mask, and its mean, minimum and maximum over random masks.
        overlap: share of the channels most kept on the clean image that are also most kept on the attacked one.
        overlap_by_chance: expected share for two random choices of the same number of channels.
    """

    title: str
    clean: Pixels
    attacked: Pixels
    clean_quality: float
    attacked_quality: float
    cpr: Map
    ncpr: Map
    cpr_attacked: Map
    ncpr_attacked: Map
    channels: pd.DataFrame
    swaps: pd.DataFrame
    overlap: float
    overlap_by_chance: float

    @property
    def overlap_text(self) -> str:
        """Both overlaps in one line."""
        return f"{self.overlap:.0%} of those most kept stay so when attacked (by chance {self.overlap_by_chance:.0%})"


def explain(
    image: str | Path,
    model: str = "resnet-iqa",
    defense: str = "cprl",
    *,
    attack: str = "score-reflection-away",
    eps: float | str = "2/255",
    seed: int = 0,
) -> Explanation:
    """Attack one image through the defense and split the model's features into CPR and N-CPR.

    Args:
        image: an 8-bit RGB file.
        model: a registry name.
        defense: `cprl` or `cprl-sortmask`, with parameters.
        attack: the attack, adaptive and with its usual objective.
        eps: radius of the ℓ∞ ball; a number or a fraction such as ``"2/255"``.
        seed: seed of the attack and of the random masks.

    Raises:
        UserError: for errors that the caller can fix.

    Example:
        >>> explanation = explain("image.png", "resnet-iqa", "cprl")  # doctest: +SKIP
        >>> explanation.channels.nlargest(5, "effect")  # doctest: +SKIP
    """
    result = attacked(Path(image), model, defense, attack, eps=eps, seed=seed)
    defended = result.evaluator.pool.ready(model, defense)
    if not isinstance(defended, CPRLModel):
        raise UserError(f"{defense} does not part features into CPR and N-CPR; name cprl or cprl-sortmask")
    with frozen(defended), torch.inference_mode():
        before, after = (_Parts(defended, pixels) for pixels in (result.before, result.after))
        channels = _channels(defended, before, after)
        swaps = _swaps(defended, before, after, torch.Generator().manual_seed(seed))
    top = max(round(float(channels["mask"].sum())), 1)
    first, second = (set(channels[name].nlargest(top).index) for name in ("mask", "mask_attacked"))
    return Explanation(
        title=f"{attack}, {result.cell.objective} · ℓ∞ ≤ {eps} · {model} + {defense}",
        clean=as_array(result.before),
        attacked=as_array(result.after),
        clean_quality=float(result.row.clean_quality),
        attacked_quality=float(result.row.adv_quality),
        cpr=before.heat(before.cpr),
        ncpr=before.heat(before.ncpr),
        cpr_attacked=after.heat(after.cpr),
        ncpr_attacked=after.heat(after.ncpr),
        channels=channels,
        swaps=swaps,
        overlap=len(first & second) / top,
        overlap_by_chance=top / len(channels),
    )


class _Parts:
    """The features z of an image, split into the kept part, CPR, and the rest, N-CPR."""

    def __init__(self, model: CPRLModel, pixels: torch.Tensor) -> None:
        self.maps = model.maps(pixels[None].float() / 255)
        self.cpr = model.activation(self.maps)
        self.ncpr = self.maps - self.cpr
        self.kept = model.activation.kept(self.maps)

    def cpr_with(self, order: torch.Tensor) -> torch.Tensor:
        """Return the CPR under the mask with its channels permuted."""
        return self.kept[:, order] * self.maps

    def ncpr_with(self, order: torch.Tensor) -> torch.Tensor:
        """Return the N-CPR under the mask with its channels permuted."""
        return (1 - self.kept[:, order]) * self.maps

    def heat(self, part: torch.Tensor) -> Map:
        """Return the mean of the absolute values over the channels, and over the patches of the image, (h, w)."""
        heat: Map = part.abs().mean(dim=(0, 1)).float().numpy()
        return heat


def _quality(model: CPRLModel, maps: torch.Tensor) -> float:
    """Return the quality for the features z (M, C, h, w) of one image, before the activation."""
    return float(model.to_quality(model.head(model.activation(maps), 1)))


def _channels(model: CPRLModel, before: _Parts, after: _Parts) -> pd.DataFrame:
    """Return the table of channels, see `Explanation`."""
    usual, strength = _usual(model)
    clean = _quality(model, before.maps)
    shift = (after.maps - before.maps).abs().mean(dim=(0, 2, 3)) / strength
    rows = []
    for channel in range(before.maps.shape[1]):
        ablated, swapped = before.maps.clone(), before.maps.clone()
        ablated[:, channel] = usual[channel]
        swapped[:, channel] = after.maps[:, channel]
        rows.append(
            {
                "channel": channel,
                "mask": float(before.kept[:, channel].mean()),
                "mask_attacked": float(after.kept[:, channel].mean()),
                "effect": abs(_quality(model, ablated) - clean),
                "shift": float(shift[channel]),
                "adversarial_effect": _quality(model, swapped) - clean,
            }
        )
    return pd.DataFrame(rows)


def _usual(model: CPRLModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the mean of each channel and of its absolute values over demo images, both (C,).

    The first is the value of a channel without information on the image. A channel that is always zero gets strength 1;
    its shift is zero too.
    """
    demo = Demo()
    all_maps = [model.maps(demo.image(i)[None].float() / 255) for i in demo.spread(USUAL)]
    usual = torch.stack([maps.mean(dim=(0, 2, 3)) for maps in all_maps]).mean(0)
    strength = torch.stack([maps.abs().mean(dim=(0, 2, 3)) for maps in all_maps]).mean(0)
    return usual, torch.where(strength > 0, strength, torch.ones_like(strength))


def _swaps(model: CPRLModel, before: _Parts, after: _Parts, generator: torch.Generator) -> pd.DataFrame:
    """Return the table of do(N := n'), do(C := c') and both, under the model's mask and random masks of equal size."""
    count = before.maps.shape[1]
    orders = [torch.randperm(count, generator=generator) for _ in range(CONTROLS)]
    rows = []
    for name, take_cpr, take_ncpr in SWAPS:
        cpr, ncpr = (after if take_cpr else before).cpr, (after if take_ncpr else before).ncpr
        controls = [
            _quality(
                model, (after if take_cpr else before).cpr_with(order) + (after if take_ncpr else before).ncpr_with(order)
            )
            for order in orders
        ]
        rows.append(
            {
                "from_attacked": name,
                "quality": _quality(model, cpr + ncpr),
                "random_mean": float(np.mean(controls)),
                "random_least": min(controls),
                "random_most": max(controls),
            }
        )
    return pd.DataFrame(rows)


def write(explanation: Explanation, stem: str, out: Path) -> list[Path]:
    """Write ``STEM-explained.png`` and ``STEM-channels.csv``; returns both.

    Raises:
        UserError: where the files cannot be written.
    """
    image, table = out / f"{stem}-explained.png", out / f"{stem}-channels.csv"
    try:
        out.mkdir(parents=True, exist_ok=True)
        explanation.channels.to_csv(table, index=False, float_format="%.6g")
        with styled():
            _figure(explanation).savefig(image, dpi=110)
    except OSError as error:
        raise UserError(f"{out}: cannot be written to ({error.strerror}); choose another --out") from None
    return [image, table]


def _figure(explanation: Explanation) -> Figure:
    figure = Figure(figsize=(12, 8.6), layout="constrained")
    figure.suptitle(f"{explanation.title}\nour reconstruction of CPRL from the abstracts", fontsize=11, color=INK)
    halves: Any = figure.subfigures(2, 1, height_ratios=[1.9, 1])
    upper, lower = halves
    largest = float(
        max(map(np.max, (explanation.cpr, explanation.ncpr, explanation.cpr_attacked, explanation.ncpr_attacked)))
    )
    grid = upper.subplots(2, 3)
    for axes, name, pixels, quality, parts in (
        (grid[0], "clean", explanation.clean, explanation.clean_quality, (explanation.cpr, explanation.ncpr)),
        (
            grid[1],
            "attacked",
            explanation.attacked,
            explanation.attacked_quality,
            (explanation.cpr_attacked, explanation.ncpr_attacked),
        ),
    ):
        axes[0].imshow(pixels)
        axes[0].set_title(f"{name}: quality {quality:.3f}")
        for panel, part, label in zip(axes[1:], parts, ("CPR, kept", "N-CPR, held back"), strict=True):
            panel.imshow(pixels.mean(axis=2), cmap="gray")
            heat = panel.imshow(_resized(part, pixels.shape[:2]), cmap="magma", vmin=0, vmax=largest, alpha=0.75)
            panel.set_title(f"{label}, {name}")
        for panel in axes:
            panel.set_axis_off()
    upper.colorbar(heat, ax=grid, fraction=0.03, label="mean |activation|")
    channels, swaps = lower.subplots(1, 2, width_ratios=[1.6, 1])
    dots = channels.scatter(
        explanation.channels["effect"] + 1e-6,
        explanation.channels["shift"] + 1e-4,
        c=explanation.channels["mask"],
        cmap="viridis",
        vmin=0,
        vmax=1,
        s=22,
        edgecolor=GREY,
        linewidth=0.3,
    )
    channels.set(
        xscale="log",
        yscale="log",
        xlabel="causal effect: |change of quality| when the channel is taken out",
        ylabel="adversarial shift:\nmean |z′ − z|, 1 = usual |z|",
    )
    channels.set_title(f"channels: {explanation.overlap_text}")
    lower.colorbar(dots, ax=channels, label="mask, clean image", fraction=0.04)
    positions = np.arange(len(explanation.swaps))
    low, high = (explanation.swaps[name] for name in ("random_least", "random_most"))
    swaps.axhline(explanation.clean_quality, color=GREY, linewidth=0.8, linestyle=":")
    swaps.vlines(
        positions + 0.12, low, high, color=COLORS["training"], linewidth=5, alpha=0.5, label="random masks, least to most"
    )
    swaps.plot(positions + 0.12, explanation.swaps["random_mean"], "s", color=COLORS["training"], label="random masks, mean")
    swaps.plot(positions - 0.12, explanation.swaps["quality"], "o", color=COLORS["purification"], label="the model's mask")
    swaps.set_xticks(positions, ["nothing", "N-CPR", "CPR", "both"])
    swaps.set(xlabel="taken from the attacked image", ylabel="quality", xlim=(-0.5, 3.5))
    swaps.margins(y=0.35)
    swaps.set_title("swap test")
    swaps.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, fontsize=7.5)
    return figure


def _resized(part: Map, size: tuple[int, ...]) -> Map:
    """Resize a feature map to the size of the image."""
    resized = functional.interpolate(torch.from_numpy(part)[None, None], size=tuple(size), mode="bilinear")
    values: Map = resized[0, 0].numpy()
    return values
