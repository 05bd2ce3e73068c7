"""What is compared: the variants, the weights of each, and how those are named in a suite and in the records."""

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
"""Of every variant, whatever its recipe: equal budget, from the same start weights."""

Role = Literal["none", "baseline", "cprl", "ablation", "idea", "control"]
Trained = tuple["Variant", int]
"""A variant and a seed: one set of weights."""
Spec = tuple[str, str]
"""Model and defense, as in a suite."""


@dataclass(frozen=True)
class Variant:
    """One recipe of the study.

    Attributes:
        name: of its rows.
        label: of its weights, before the seed.
        recipe: what it is trained by.
        role: what it is there for: "none", no defense; "baseline", to be beaten; "cprl", as we read the abstracts;
            "ablation", that without one of its terms; "idea", beyond the abstracts; "control", what an idea is without
            CPRL, where no other variant is that.
        surrogates: values of ``through`` that an adaptive attacker may take gradients by, beside the exact one.
        headline: whether it meets the most expensive attacks as well.
        control: of an idea, the name of the variant that is the same without what makes it CPRL.
    """

    name: str
    label: str
    recipe: str
    role: Role
    surrogates: tuple[str, ...] = ()
    headline: bool = False
    control: str = ""

    def weights(self, seed: int) -> str:
        """The label of its weights; none of those of the first seed that ship under the recipe's own name."""
        return "" if self.label in SHIPPED and seed == SEEDS[0] else f"{self.label}-{seed}"

    def spec(self, seed: int, through: str = "") -> Spec:
        """Model and defense; where nothing is defended, the weights are the model's."""
        name, parameters = parse_spec(self.recipe)
        if name == "none":
            return spec_of(MODEL, {"weights": self.weights(seed)}), name
        return MODEL, spec_of(name, {**parameters, "weights": self.weights(seed), "through": through})


SHIPPED = ("plain", "default")
"""Labels of recipes as they are by default, which are in the zoo with one seed at least."""
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
"""Settings and ideas are those that `iqarena.bench.study.search` found best on validation images (docs/cprl/search.csv): of four weights
of norm regularization and two of adversarial training; of CPRL's ideas, the most robust one that costs no clean SROCC, and
the most robust one of all. A variant more is a line more."""


def trained(variants: Sequence[Variant] = VARIANTS, seeds: Sequence[int] = SEEDS) -> list[Trained]:
    """Seed by seed, so that all variants have one before any has two."""
    return [(variant, seed) for seed in seeds for variant in variants]


def at_hand(found: Sequence[Trained]) -> list[Trained]:
    """Those whose weights are there, in the zoo or in $IQARENA_WEIGHTS."""
    return [
        (variant, seed)
        for variant, seed in found
        if chosen_file(variant.weights(seed), MODEL, parse_spec(variant.recipe)[0]).is_file()
    ]


def named(variants: Sequence[Variant] = VARIANTS) -> dict[Spec, tuple[Variant, int, str]]:
    """Variant, seed and surrogate behind every spec of the study."""
    return {
        variant.spec(seed, through): (variant, seed, through)
        for variant in variants
        for seed in SEEDS
        for through in ("", *variant.surrogates)
    }
