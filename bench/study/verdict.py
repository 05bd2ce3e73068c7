"""The verdict of the study in words, computed from its numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iqarena.bench.metrics.bootstrap import interval
from iqarena.bench.results.formatting import format_eps, format_interval, format_number
from iqarena.bench.results.ranking import FEW_REFERENCES
from iqarena.bench.study.numbers import AttackCase, Difference, Findings, Run, Size
from iqarena.bench.study.variants import Variant

GAIN, COST = 0.03, 0.02
"""The aim, set before the training: the least gain of robust SROCC, and the largest loss of clean SROCC."""
HIDDEN = 0.02
"""The SROCC by which an attack without the exact gradient must be stronger than those with it for a hidden gradient."""

Differences = dict[Variant, tuple[Difference, Difference]]
"""Differences of variants to another one, in robust and in clean SROCC."""
Control = tuple[Variant, Difference] | None
"""The control of an idea, and the difference of the idea to it in robust SROCC; None for a variant without control."""


def format_p(p: float) -> str:
    """Format a p value."""
    return "no p" if not np.isfinite(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def verdict(findings: Findings) -> str:
    """Return the verdict on one data set as a paragraph."""
    base, cprl = findings.find("baseline"), findings.find("cprl")
    if base is None or cprl is None:
        return "The records lack adversarial training or CPRL, so nothing can be said yet."
    size = findings.half(base)
    forms = [variant for variant in size.variants if variant.role in ("cprl", "idea")]
    if cprl not in forms:
        return "The records of CPRL are not complete, so nothing can be said yet."
    against = _differences(size, base, forms)  # corrected for all forms, since any of them could be the best
    cheap = [form for form in forms if against[form][1].value[0] >= -COST] or forms
    best, strongest = (max(group, key=lambda form: float(size.robust(form)[0])) for group in (cheap, forms))
    control = _control(size, best)
    sentences = [_best(size, base, against, cheap, best, control), *_control_sentence(size, control)]
    sentences += _all_attacks(size, base, best)
    if strongest != best:
        sentences += [_most_robust(size, base, against, strongest), *_control_sentence(size, _control(size, strongest))]
    if cprl != best:
        sentences.append(_as_read(base, against, cprl))
    sentences += [*_better_baselines(size, base, best), _terms(size, cprl), hidden(findings.main)]
    sentences.append(_limitations(findings, size))
    return " ".join(sentences)


def _best(size: Size, base: Variant, against: Differences, cheap: Sequence[Variant], best: Variant, control: Control) -> str:
    robust, clean = against[best]
    kept = float(size.robust(base)[0] / size.clean(base)[0])
    at = f"At {format_eps('linf', size.eps)}, where {base.name} keeps {kept:.0%} of its clean SROCC"
    price = f" that lose at most {COST} clean SROCC" if len(cheap) < len(against) else ""
    which = f"the best of {len(cheap)} forms of CPRL{price}, {best.name}," if len(cheap) > 1 else f"{best.name}"
    corrected = f", corrected for {len(against)} forms" if len(against) > 1 else ""
    text = (
        f"{at}, {which} has a robust SROCC of {format_interval(interval(size.robust(best)))} against "
        f"{format_interval(interval(size.robust(base)))}: a difference of {format_interval(robust.value)} "
        f"({format_p(robust.p)}{corrected}). "
        f"In clean SROCC the difference is {format_interval(clean.value)}."
    )
    shortfalls = []
    if robust.value[0] < GAIN:
        shortfalls.append(f"the gain is below {GAIN}")
    if not (robust.significant and robust.value[1] > 0):
        shortfalls.append("its interval is not clear of zero" if robust.value[1] <= 0 else "its p is not below 0.05")
    if clean.value[0] < -COST:
        shortfalls.append(f"it costs more than {COST} clean SROCC")
    if not shortfalls:
        return f"{text} **That is better than {base.name} by what we had set out for{_credit(control)}.**"
    if robust.significant and robust.value[0] < 0:
        return f"{text} **{base.name.capitalize()} is better.**"
    if robust.significant:
        return f"{text} **It is more robust, but not by what we had set out for**: {_and(shortfalls)}."
    return f"{text} **We cannot tell the two apart.**"


def _control(size: Size, idea: Variant) -> Control:
    control = next((variant for variant in size.variants if variant.name == idea.control), None)
    return (control, size.against(control, [idea], size.robust)[idea.name]) if control else None


def _credit(control: Control) -> str:
    """Say whether CPRL causes the gain of an idea, as the end of a sentence."""
    if control is None:
        return ""
    _, robust = control
    if not robust.significant:
        return ", but nothing shows that CPRL does it"
    return ", and the gain is CPRL's own" if robust.value[0] > 0 else ", but without CPRL it would be better still"


def _control_sentence(size: Size, control: Control) -> list[str]:
    if control is None:
        return []
    variant, robust = control
    values = (
        f"{format_interval(interval(size.robust(variant)))} robust, {format_interval(interval(size.clean(variant)))} clean"
    )
    changed = f"CPRL changes the robust one by {format_interval(robust.value)} ({format_p(robust.p)})"
    return [f"Without CPRL it is {variant.name} ({values}); {changed}."]


def _all_attacks(size: Size, base: Variant, best: Variant) -> list[str]:
    """Compare both under all attacks, those that were run on some runs alone included."""
    clauses = [
        f"seed {run.seed} of {best.name} keeps {format_number(run.least[0])} ({len(run.attacked)} attacks and settings), "
        f"that of {base.name} {format_number(base_run.least[0])} ({len(base_run.attacked)})"
        for run in size.of(best)
        for base_run in size.of(base)
        if run.seed == base_run.seed and all(r.has_extra_attacks(size.common) for r in (run, base_run))
    ]
    return [f"Under everything that was tried, {'; '.join(clauses)}."] if clauses else []


def _most_robust(size: Size, base: Variant, against: Differences, form: Variant) -> str:
    robust, clean = against[form]
    return (
        f"Of all forms {form.name} is the most robust, {format_interval(interval(size.robust(form)))}, "
        f"which is {format_interval(robust.value)} against {base.name}, at {format_interval(clean.value)} in clean SROCC."
    )


def _better_baselines(size: Size, base: Variant, best: Variant) -> list[str]:
    """Name the baselines that are more robust than the best form of CPRL."""
    others = [variant for variant in size.variants if variant.role == "baseline" and variant != base]
    against = size.against(best, others, size.robust)
    clauses = [
        f"{variant.name} ({format_interval(interval(size.robust(variant)))} robust, "
        f"{format_interval(interval(size.clean(variant)))} clean)"
        for variant in others
        if against[variant.name].significant and against[variant.name].value[0] > 0
    ]
    return [f"More robust than {best.name}, without any CPRL: {'; '.join(clauses)}."] if clauses else []


def _as_read(base: Variant, against: Differences, cprl: Variant) -> str:
    robust, _ = against[cprl]
    word = ("more" if robust.value[0] > 0 else "less") + " robust than" if robust.significant else "not told apart from"
    return (
        f"{cprl.name} as we read the abstract is {word} {base.name}: {format_interval(robust.value)} ({format_p(robust.p)})."
    )


def _differences(size: Size, first: Variant, others: Sequence[Variant]) -> Differences:
    robust, clean = (size.against(first, others, measure) for measure in (size.robust, size.clean))
    return {variant: (robust[variant.name], clean[variant.name]) for variant in others}


def terms(size: Size, cprl: Variant) -> Differences:
    """Return the differences of the ablations of CPRL to CPRL."""
    return _differences(size, cprl, [variant for variant in size.variants if variant.role == "ablation"])


def _terms(size: Size, cprl: Variant) -> str:
    ablations = terms(size, cprl)
    clauses = [
        f"{variant.name} is {'more' if robust.value[0] > 0 else 'less'} robust than {cprl.name} "
        f"({format_interval(robust.value)}, {format_p(robust.p)})"
        for variant, (robust, _) in ablations.items()
        if robust.significant
    ]
    others = len(ablations) - len(clauses)
    if not ablations:
        return "No term of it was left out for comparison."
    if not clauses:
        return f"None of the {len(ablations)} variants of {cprl.name} that lack a term can be told apart from it."
    rest = f"; the other {others} that lack a term cannot be told apart from it" if others else ""
    return f"{'; '.join(clauses)}{rest}."


# --- hidden gradients


KINDS = ("surrogate", "scores alone", "transfer")
"""The options of an attacker other than the exact gradient."""


def least_by_kind(run: Run, common: frozenset[AttackCase]) -> dict[str, float]:
    """Return the least SROCC of a run by what the attack uses; exact gradients are those of the common attacks alone."""
    groups: dict[str, list[float]] = {}
    for case, values in run.attacked.items():
        if case.through:
            kind = "surrogate"
        elif case.attack.startswith("square"):
            kind = "scores alone"
        elif case.setting == "oblivious":
            kind = "transfer"
        elif case in common:
            kind = "exact gradient"
        else:
            continue
        groups.setdefault(kind, []).append(float(values[0]))
    return {kind: min(values) for kind, values in groups.items()}


def hidden(size: Size) -> str:
    """Say whether attacks without the exact gradient are stronger than those with it."""
    beaten: list[str] = []
    tried: dict[str, float] = {}
    for variant in (variant for variant in size.variants if variant.role != "none"):
        for run in size.of(variant):
            by_kind = least_by_kind(run, size.common)
            exact = by_kind.pop("exact gradient", np.nan)
            for kind, value in by_kind.items():
                tried[kind] = max(tried.get(kind, -np.inf), exact - value)
                if exact - value > HIDDEN:
                    beaten.append(
                        f"{variant.name}, seed {run.seed}, by {kind} ({format_number(exact)} to {format_number(value)})"
                    )
    at = f"At {format_eps('linf', size.eps)}"
    if not tried:
        return f"{at} nothing but exact gradients was tried, so they may hide something."
    if beaten:
        return f"{at} exact gradients miss something: {_first_ones(beaten)}."
    names = _and([kind for kind in KINDS if kind in tried])
    most = max(tried.values())
    text = f"at most {format_number(most)} lower" if most > 0 else "none is lower"
    return f"{at} nothing found what exact gradients miss, of {names} ({text})."


def _and(items: Sequence[str]) -> str:
    return ", ".join(items[:-1]) + " and " * bool(items[:-1]) + items[-1]


def _first_ones(items: Sequence[str], count: int = 4) -> str:
    more = f"; and {len(items) - count} more" if len(items) > count else ""
    return "; ".join(items[:count]) + more


def _limitations(findings: Findings, size: Size) -> str:
    seeds = sorted(len(size.of(variant)) for variant in size.variants)
    limits = []
    if findings.references < FEW_REFERENCES:
        limits.append(f"{findings.references} reference images")
    if seeds[0] < 5:
        count = "one seed" if seeds[0] == 1 else f"{seeds[0]} seeds"
        limits.append(f"{count} {'of some variants' if seeds[0] == 1 < seeds[-1] else 'a variant'}")
    limits += ["one small network", "one budget"]
    return f"All this is from {_and(limits)}, and the intervals are rough."
