"""The suite ``bench/suites/cprl.yaml``: the attacks on each variant, and what they cost.

The suite has sections, each a product of lists. A section may be written alone and run at another time into
the same folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from textwrap import fill
from typing import Any

import yaml

from iqarena.attacks.ensemble import Ensemble
from iqarena.bench.cells import Cell, expand
from iqarena.bench.errors import UserError
from iqarena.bench.registry import ATTACKS
from iqarena.bench.study.variants import MODEL, SEEDS, Spec, TrainedVariant, trained_variants
from iqarena.bench.suite import SUITES, Suite, validated

PATH = SUITES / "cprl.yaml"
IMAGES = 60
MAIN, SIZES = "2/255", ("1/255", "2/255", "4/255", "8/255")
COMMON: dict[str, Any] = {"name": "cprl", "dataset": "demo", "limit": IMAGES, "seed": 0}

CORE = ["random-noise", "score-reflection", "score-reflection-away", "pgd[steps=40]"]
WHOLE = ["score-reflection-fgsm", "score-reflection-apgd", "square", "standard", "standard-rank"]
MILLISECONDS = {"forward": 4.5, "float32": 11.5, "bfloat16": 6.5}
"""Time of a forward pass, and of a forward and backward pass in either precision, an image, on one core of an EPYC with
AVX512-BF16."""
SECONDS_A_CELL = 1.2
"""Time of the rest of a cell: scores of 60 images and their distances."""


@dataclass(frozen=True)
class Section:
    """A section of the suite: some cells, and why they are in it."""

    name: str
    why: str
    parts: list[dict[str, Any]] = field(default_factory=list)

    @property
    def cells(self) -> list[Cell]:
        """The cells that the section expands to."""
        first, *others = self.parts
        suite: Suite = validated({**COMMON, **first, "parts": others})
        return expand(suite)


def sections(runs: Sequence[TrainedVariant] | None = None) -> list[Section]:
    """Return the sections of the suite for some trained variants; for all of them if left out."""
    runs = trained_variants() if runs is None else runs
    everything = [variant.spec(seed) for variant, seed in runs]
    first = [variant.spec(seed) for variant, seed in runs if seed == SEEDS[0]]
    headline = [variant.spec(seed) for variant, seed in runs if seed == SEEDS[0] and variant.headline]
    surrogates = [variant.spec(seed, through) for variant, seed in runs for through in variant.surrogates]
    other_sizes = [size for size in SIZES if size != MAIN]
    all_sections = [
        Section(
            "core",
            "every variant, seed and size under the score-reflection attacks and PGD, crafted through the defense and on "
            "the undefended twin (setting oblivious: a transfer attack). Gradients in bfloat16: on adversarial training and "
            "CPRL these attacks moved quality by 0.99 of what float32 did, at half the time",
            [*_parts(everything, CORE, SIZES, "bfloat16", ["oblivious", "adaptive"])],
        ),
        Section(
            "surrogates",
            "every variant with a mask through its surrogates; what works better than the exact gradient counts against it",
            [*_parts(surrogates, ["score-reflection-away", "pgd[steps=40]"], [MAIN], "bfloat16")],
        ),
        Section(
            "set",
            "the attack on the whole set, which aims at ranks by exact qualities and so wants float32: all seeds at the "
            "main size, one at the others",
            [
                *_parts(everything, ["sma[steps=10]"], [MAIN], "float32"),
                *_parts(first, ["sma[steps=10]"], other_sizes, "float32"),
            ],
        ),
        Section(
            "black-box",
            "every variant by scores alone: does a search find what the gradient hides?",
            [*_parts(first, ["square[queries=200]"], [MAIN], "float32")],
        ),
        Section(
            "strong",
            "the headline variants under the whole list: PGD with more steps and restarts, and the two ensembles with their "
            "members, 100 steps with restarts and 1,000 questions",
            [
                *_parts(headline, [f"pgd[steps={steps},restarts=3]" for steps in (10, 40, 100)], [MAIN], "bfloat16"),
                *_parts(headline, WHOLE, [MAIN], "float32"),
            ],
        ),
    ]
    return [section for section in all_sections if section.parts]


def _parts(
    specs: Sequence[Spec],
    attacks: Sequence[str],
    sizes: Sequence[str],
    precision: str,
    settings: Sequence[str] = ("adaptive",),
) -> Iterable[dict[str, Any]]:
    """Yield the part with the defended variants, all defenses of one model, then that with undefended ones, each a model."""
    common = {"attacks": list(attacks), "threats": [{"norm": "linf", "eps": size} for size in sizes], "precision": precision}
    defended = [defense for _, defense in specs if defense != "none"]
    undefended = [model for model, defense in specs if defense == "none"]
    if defended:
        yield {"models": [MODEL], "defenses": defended, **common, "settings": list(settings)}
    if undefended:
        yield {"models": undefended, "defenses": ["none"], **common, "settings": ["adaptive"]}


def minutes(cells: Sequence[Cell]) -> float:
    """Estimate the minutes that cells take on one core; attacked images that cells share are crafted once."""
    crafted = {member.crafting: member for cell in cells for member in _members(cell)}
    milliseconds = 1000 * SECONDS_A_CELL * len(cells)
    for cell in crafted.values():
        forwards, backwards = ATTACKS.build(cell.attack).passes or (0, 0)
        each = (forwards - backwards) * MILLISECONDS["forward"] + backwards * MILLISECONDS[cell.precision]
        milliseconds += IMAGES * each
    return milliseconds / 60_000


def _members(cell: Cell) -> list[Cell]:
    """Return the cells of the members of an ensemble attack; for another attack, the cell itself."""
    attack = ATTACKS.build(cell.attack)
    if not isinstance(attack, Ensemble):
        return [cell]
    return [replace(cell, attack=member.name, objective=kind) for member, kind in attack.members]


def text(names: Sequence[str] = (), runs: Sequence[TrainedVariant] | None = None) -> str:
    """Return the suite as YAML.

    Args:
        names: only these sections; all if empty.
        runs: only these trained variants; all if left out.

    Raises:
        UserError: for an unknown section, or if there are no sections.
    """
    all_sections = sections(runs)
    known = [section.name for section in all_sections]
    if not known:
        raise UserError("no weights of the study are at hand; train them, and set IQARENA_WEIGHTS to their folder")
    for name in names:
        if name not in known:
            raise UserError(f"no section {name!r}; the suite has {', '.join(known)}")
    chosen = [section for section in all_sections if not names or section.name in names]
    duration = {section.name: minutes(section.cells) for section in chosen}
    lines = [
        *_comment(
            "CPRL (our reconstruction from the abstracts) against what is trained at the same budget: the study in "
            "docs/cprl.md. Written by `python -m iqarena.bench.study suite --write` from bench/study/variants.py. Weights "
            "that are not in the zoo are in results/cprl/weights; `python -m iqarena.bench.study train` makes them anew, "
            "and while some are still to be trained, `python -m iqarena.bench.study suite --at-hand` prints the suite of "
            "the others."
        ),
        "#",
        "#   export IQARENA_WEIGHTS=results/cprl/weights",
        "#   iqarena run cprl --out RESULTS",
        "#",
        *_comment(
            "Sections can be run on different days into the same folder, from "
            "`python -m iqarena.bench.study suite SECTION`. "
            f"In minutes of one core, with {IMAGES} images, {MILLISECONDS['forward']} ms a forward pass of one, "
            f"{MILLISECONDS['float32']} ms with its backward, {MILLISECONDS['bfloat16']} ms in bfloat16, and "
            f"{SECONDS_A_CELL:g} s a cell:"
        ),
        "#",
        *(
            f"#   {name:<12}{duration[name]:>5.0f}   {len(s.cells):>5} cells"
            for name, s in zip(duration, chosen, strict=True)
        ),
        f"#   {'together':<12}{sum(duration.values()):>5.0f}   {sum(len(s.cells) for s in chosen):>5} cells",
    ]
    first, *others = [
        (section if index == 0 else None, part) for section in chosen for index, part in enumerate(section.parts)
    ]
    lines += [f"{key}: {value}" for key, value in COMMON.items()]
    lines += [*_comment(f"{chosen[0].name}: {chosen[0].why}"), *_yaml(first[1])]
    if others:
        lines.append("parts:")
    for section, part in others:
        lines += [f"  {line}" for line in _comment(f"{section.name}: {section.why}")] if section else []
        lines += [("  - " if index == 0 else "    ") + line for index, line in enumerate(_yaml(part))]
    return "\n".join(lines) + "\n"


def _comment(text: str) -> list[str]:
    return fill(text, 118, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False).splitlines()


def _yaml(content: dict[str, Any]) -> list[str]:
    return yaml.safe_dump(content, sort_keys=False, width=118, default_flow_style=None).splitlines()
