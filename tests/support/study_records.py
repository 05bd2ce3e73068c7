"""Records of a small study of CPRL with known numbers: four variants, three seeds, three attacks."""

from __future__ import annotations

import pytest

from iqarena.bench.results.store import Records
from iqarena.bench.study.variants import SEEDS, VARIANTS, Variant
from tests.support.board_records import CLEAN, NOISE, put

BY_NAME = {variant.name: variant for variant in VARIANTS}
SOME = tuple(BY_NAME[name] for name in ("no defense", "adversarial training", "CPRL", "CPRL without mask"))
HELD = {"no defense": -1.5, "adversarial training": 0.5, "CPRL": 0.5, "CPRL without mask": 0.5}
"""Robustness of each variant at 2/255: 1 keeps the clean qualities, −1 mirrors them."""


def fill(
    records: Records, robustness: dict[str, float], variants: tuple[Variant, ...] = SOME, sizes: tuple[int, ...] = (2, 8),
    seeds: tuple[int, ...] = SEEDS, clean: dict[str, float] | None = None,
) -> None:  # fmt: skip
    """Write records of a small study: qualities get worse with the size of the attack; seeds differ slightly."""
    records.prepare()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda _: None)  # most of the time that they would take
        _fill(records, robustness, variants, sizes, seeds, clean or {})


def _fill(
    records: Records, robustness: dict[str, float], variants: tuple[Variant, ...], sizes: tuple[int, ...],
    seeds: tuple[int, ...], clean: dict[str, float],
) -> None:  # fmt: skip
    for variant in variants:
        for seed in seeds:
            own = CLEAN + clean.get(variant.name, 0.0) * NOISE[4]
            for size in sizes:
                for index, attack in enumerate(["random-noise", "score-reflection-away", "pgd[steps=40]"]):
                    weight = robustness[variant.name] - (size - 2) / 4 - 0.02 * seed + 0.1 * (index != 1)
                    adv = own if index == 0 else weight * own + 0.15 * NOISE[(seed + index) % 3]
                    for setting in ["adaptive"] if variant.role == "none" else ["adaptive", "oblivious"]:
                        model, defense = variant.spec(seed)
                        put(
                            records, adv if setting == "adaptive" else own, clean=own, model=model, defense=defense,
                            attack=attack, setting=setting, eps=size / 255, kind="training",
                        )  # fmt: skip
