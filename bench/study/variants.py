"""The variants that the study compares, the weights of each, and their specs in a suite and in the records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from iqarena.bench.registry import parse_spec, spec_of
from iqarena.defenses.training.loop import Schedule
from iqarena.models.zoo import chosen_file

MODEL = "resnet-iqa"
SEEDS = (0, 1, 2)
SCHEDULE = Schedule(passes=200_000, crop=96, learning_rate=1e-3, ema=0.995)
"""The training schedule of every variant, whatever its recipe: equal budget, from the same start weights."""

Role = Literal["none", "baseline", "cprl", "ablation", "idea", "control"]
TrainedVariant = tuple["Variant", int]
"""A variant and a seed: one set of weights."""
Spec = tuple[str, str]
"""Model and defense, as in a suite."""


@dataclass(frozen=True)
class Variant:
    """One recipe of the study.

    Attributes:
        name: name in tables and plots.
        label: label of its weights, before the seed.
        recipe: spec of the defense that it is trained with.
        role: its role in the study: "none", no defense; "baseline", to be beaten; "cprl", as we read the abstracts;
            "ablation", CPRL without one of its terms; "idea", beyond the abstracts; "control", an idea without CPRL, where
            no other variant is that.
        surrogates: values of ``through``: the surrogate gradients that an adaptive attacker may use beside the exact one.
        headline: whether the most expensive attacks are run on it as well.
        control: for an idea, the name of the variant that is the same without CPRL.
    """

    name: str
    label: str
    recipe: str
    role: Role
    surrogates: tuple[str, ...] = ()
    headline: bool = False
    control: str = ""

    def weights(self, seed: int) -> str:
        """Return the label of the weights of a seed; empty where the first seed is shipped under the name of the recipe."""
        return "" if self.label in SHIPPED and seed == SEEDS[0] else f"{self.label}-{seed}"

    def spec(self, seed: int, through: str = "") -> Spec:
        """Return model and defense; without a defense, the weights are those of the model."""
        name, parameters = parse_spec(self.recipe)
        if name == "none":
            return spec_of(MODEL, {"weights": self.weights(seed)}), name
        return MODEL, spec_of(name, {**parameters, "weights": self.weights(seed), "through": through})


SHIPPED = ("plain", "default")
"""Labels of recipes with default parameters, which are in the zoo with one seed at least."""
SOFT = ("smoother", "sharper", "identity")
VARIANTS = (
    Variant("no defense", "plain", "none", "none"),
    Variant("adversarial training", "default", "adversarial-training", "baseline", headline=True),
    Variant("adversarial training, weight 3", "weight-3", "adversarial-training[adversarial_weight=3]", "baseline"),
    Variant("norm regularization", "default", "norm-regularization", "baseline"),
    Variant("TRADES", "default", "trades", "baseline"),
    Variant("CPRL", "default", "cprl", "cprl", SOFT, headline=True),
    Variant("CPRL, SortMask", "default", "cprl-sortmask", "cprl", ("identity",), headline=True),
    Variant("CPRL without mask", "no-mask", "cprl[mask=none]", "ablation"),
    Variant("CPRL without necessity", "no-necessity", "cprl[necessity_weight=0]", "ablation", SOFT),
    Variant("CPRL without minimax", "no-minimax", "cprl[adversarial_weight=0]", "ablation", SOFT),
    Variant("CPRL, random mask", "random-mask", "cprl[mask=random]", "ablation", ("identity",)),
    Variant(
        "CPRL, stable ranks",
        "stable-rank",
        "cprl[mask=stable-rank,mask_ramp=0.5]",
        "idea",
        ("identity",),
        control="CPRL without mask",
    ),
    Variant(
        "CPRL, attacked necessity",
        "attacked",
        "cprl[inner_steps=1,sufficiency_weight=0,necessity=attacked]",
        "idea",
        SOFT,
        headline=True,
        control="attacked images alone",
    ),
    Variant(
        "attacked images alone",
        "attacked-alone",
        "cprl[mask=none,inner_steps=1,sufficiency_weight=0,necessity_weight=0]",
        "control",
        headline=True,
    ),
)
"""The parameters are those that `iqarena.bench.study.search` found best on validation images (docs/cprl/search.csv): of four
weights of norm regularization and two of adversarial training; of the ideas beyond CPRL, the most robust one that costs no
clean SROCC, and the most robust one of all."""


def trained_variants(variants: Sequence[Variant] = VARIANTS, seeds: Sequence[int] = SEEDS) -> list[TrainedVariant]:
    """Return all variants with all seeds, seed by seed, so that every variant has a first seed before any has a second."""
    return [(variant, seed) for seed in seeds for variant in variants]


def available(runs: Sequence[TrainedVariant]) -> list[TrainedVariant]:
    """Select the trained variants whose weights exist, in the zoo or in $IQARENA_WEIGHTS."""
    return [
        (variant, seed)
        for variant, seed in runs
        if chosen_file(variant.weights(seed), MODEL, parse_spec(variant.recipe)[0]).is_file()
    ]


def variants_by_spec(variants: Sequence[Variant] = VARIANTS) -> dict[Spec, tuple[Variant, int, str]]:
    """Return the variant, seed and surrogate of every spec of the study."""
    return {
        variant.spec(seed, through): (variant, seed, through)
        for variant in variants
        for seed in SEEDS
        for through in ("", *variant.surrogates)
    }
