"""What follows from the numbers, in words, whichever way they fall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from iqarena.bench.metrics.bootstrap import interval
from iqarena.bench.results.formatting import format_eps as written
from iqarena.bench.results.formatting import format_interval, format_number
from iqarena.bench.results.ranking import FEW_REFERENCES
from iqarena.bench.study.numbers import Difference, Findings, Met, Run, Size
from iqarena.bench.study.variants import Variant

GAIN, COST = 0.03, 0.02
"""The aim, set before anything was trained: so much more robust SROCC, at no more clean SROCC lost than this."""
HIDDEN = 0.02
"""SROCC by which an attack without the exact gradient must do better than those with it, before that counts as hidden."""

Differences = dict[Variant, tuple[Difference, Difference]]
"""What variants are less another one, robust and clean."""
Without = tuple[Variant, Difference] | None
"""What an idea is without CPRL, and what the idea is less that; None for what has no such control."""


def p_of(p: float) -> str:
    """A p value as people write it."""
    return "no p" if not np.isfinite(p) else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def verdict(found: Findings) -> str:
    """One paragraph."""
    base, own = found.find("baseline"), found.find("cprl")
    if base is None or own is None:
        return "The records lack adversarial training or CPRL, so nothing can be said yet."
    size = found.half(base)
    forms = [variant for variant in size.variants if variant.role in ("cprl", "idea")]
    if own not in forms:
        return "The records of CPRL are not complete, so nothing can be said yet."
    against = _differences(size, base, forms)  # corrected for all forms, as any of them might have been the best
    cheap = [form for form in forms if against[form][1].value[0] >= -COST] or forms
    best, strongest = (max(some, key=lambda form: float(size.robust(form)[0])) for some in (cheap, forms))
    without = _without(size, best)
    sentences = [_best(size, base, against, cheap, best, without), *_control(size, without), *_everything(size, base, best)]
    if strongest != best:
        sentences += [_dearer(size, base, against, strongest), *_control(size, _without(size, strongest))]
    if own != best:
        sentences.append(_as_read(base, against, own))
    sentences += [*_others(size, base, best), _terms(size, own), hidden(found.main), *_doubts(found, size)]
    return " ".join(sentences)


def _best(size: Size, base: Variant, against: Differences, cheap: Sequence[Variant], best: Variant, without: Without) -> str:
    robust, clean = against[best]
    kept = float(size.robust(base)[0] / size.clean(base)[0])
    at = f"At {written('linf', size.eps)}, where {base.name} keeps {kept:.0%} of its clean SROCC"
    price = f" that lose at most {COST} clean SROCC" if len(cheap) < len(against) else ""
    which = f"the best of {len(cheap)} forms of CPRL{price}, {best.name}," if len(cheap) > 1 else f"{best.name}"
    corrected = f", corrected for {len(against)} forms" if len(against) > 1 else ""
    told = (
        f"{at}, {which} has a robust SROCC of {format_interval(interval(size.robust(best)))} against "
        f"{format_interval(interval(size.robust(base)))}: a difference of {format_interval(robust.value)} ({p_of(robust.p)}{corrected}). "
        f"In clean SROCC the difference is {format_interval(clean.value)}."
    )
    lacking = []
    if robust.value[0] < GAIN:
        lacking.append(f"the gain is below {GAIN}")
    if not (robust.believed and robust.value[1] > 0):
        lacking.append("its interval is not clear of zero" if robust.value[1] <= 0 else "its p is not below 0.05")
    if clean.value[0] < -COST:
        lacking.append(f"it costs more than {COST} clean SROCC")
    if not lacking:
        return f"{told} **That is better than {base.name} by what we had set out for{_whose(without)}.**"
    if robust.believed and robust.value[0] < 0:
        return f"{told} **{base.name.capitalize()} is better.**"
    if robust.believed:
        return f"{told} **It is more robust, but not by what we had set out for**: {_and(lacking)}."
    return f"{told} **We cannot tell the two apart.**"


def _without(size: Size, idea: Variant) -> Without:
    control = next((variant for variant in size.variants if variant.name == idea.control), None)
    return (control, size.against(control, [idea], size.robust)[idea.name]) if control else None


def _whose(without: Without) -> str:
    """Whether CPRL does what an idea gains, as the end of a sentence."""
    if without is None:
        return ""
    _, robust = without
    if not robust.believed:
        return ", but nothing shows that CPRL does it"
    return ", and the gain is CPRL's own" if robust.value[0] > 0 else ", but without CPRL it would be better still"


def _control(size: Size, without: Without) -> list[str]:
    if without is None:
        return []
    control, robust = without
    values = (
        f"{format_interval(interval(size.robust(control)))} robust, {format_interval(interval(size.clean(control)))} clean"
    )
    changed = f"CPRL changes the robust one by {format_interval(robust.value)} ({p_of(robust.p)})"
    return [f"Without CPRL it is {control.name} ({values}); {changed}."]


def _everything(size: Size, base: Variant, best: Variant) -> list[str]:
    """What is left of both under attacks that only some runs met."""
    told = [
        f"seed {one.seed} of {best.name} keeps {format_number(one.least[0])} ({len(one.attacked)} attacks and settings), "
        f"that of {base.name} {format_number(other.least[0])} ({len(other.attacked)})"
        for one in size.of(best)
        for other in size.of(base)
        if one.seed == other.seed and one.met_more(size.common) and other.met_more(size.common)
    ]
    return [f"Under everything that was tried, {'; '.join(told)}."] if told else []


def _dearer(size: Size, base: Variant, against: Differences, form: Variant) -> str:
    robust, clean = against[form]
    return (
        f"Of all forms {form.name} is the most robust, {format_interval(interval(size.robust(form)))}, which is {format_interval(robust.value)} "
        f"against {base.name}, at {format_interval(clean.value)} in clean SROCC."
    )


def _others(size: Size, base: Variant, best: Variant) -> list[str]:
    """What is no CPRL and better than the best of it."""
    others = [variant for variant in size.variants if variant.role == "baseline" and variant != base]
    against = size.against(best, others, size.robust)
    told = [
        f"{variant.name} ({format_interval(interval(size.robust(variant)))} robust, {format_interval(interval(size.clean(variant)))} clean)"
        for variant in others
        if against[variant.name].believed and against[variant.name].value[0] > 0
    ]
    return [f"More robust than {best.name}, without any CPRL: {'; '.join(told)}."] if told else []


def _as_read(base: Variant, against: Differences, own: Variant) -> str:
    robust, _ = against[own]
    word = ("more" if robust.value[0] > 0 else "less") + " robust than" if robust.believed else "not told apart from"
    return f"{own.name} as we read the abstract is {word} {base.name}: {format_interval(robust.value)} ({p_of(robust.p)})."


def _differences(size: Size, first: Variant, others: Sequence[Variant]) -> Differences:
    robust, clean = (size.against(first, others, of) for of in (size.robust, size.clean))
    return {variant: (robust[variant.name], clean[variant.name]) for variant in others}


def terms(size: Size, own: Variant) -> Differences:
    """What CPRL less a term is less CPRL."""
    return _differences(size, own, [variant for variant in size.variants if variant.role == "ablation"])


def _terms(size: Size, own: Variant) -> str:
    found = terms(size, own)
    told = [
        f"{variant.name} is {'more' if robust.value[0] > 0 else 'less'} robust than {own.name} "
        f"({format_interval(robust.value)}, {p_of(robust.p)})"
        for variant, (robust, _) in found.items()
        if robust.believed
    ]
    others = len(found) - len(told)
    if not found:
        return "No term of it was left out for comparison."
    if not told:
        return f"None of the {len(found)} variants of {own.name} that lack a term can be told apart from it."
    rest = f"; the other {others} that lack a term cannot be told apart from it" if others else ""
    return f"{'; '.join(told)}{rest}."


# --- hidden gradients


KINDS = ("surrogate", "scores alone", "transfer")
"""Ways of an attacker who does not trust the exact gradient."""


def kinds(run: Run, common: frozenset[Met]) -> dict[str, float]:
    """The least SROCC of a run by what the attack knew; exact gradients are those of the same steps as the others'."""
    groups: dict[str, list[float]] = {}
    for met, values in run.attacked.items():
        if met.through:
            kind = "surrogate"
        elif met.attack.startswith("square"):
            kind = "scores alone"
        elif met.setting == "oblivious":
            kind = "transfer"
        elif met in common:
            kind = "exact gradient"
        else:
            continue
        groups.setdefault(kind, []).append(float(values[0]))
    return {kind: min(values) for kind, values in groups.items()}


def hidden(size: Size) -> str:
    """Whether anything finds what exact gradients miss."""
    beaten: list[str] = []
    tried: dict[str, float] = {}
    for variant in (variant for variant in size.variants if variant.role != "none"):
        for run in size.of(variant):
            found = kinds(run, size.common)
            exact = found.pop("exact gradient", np.nan)
            for kind, value in found.items():
                tried[kind] = max(tried.get(kind, -np.inf), exact - value)
                if exact - value > HIDDEN:
                    beaten.append(
                        f"{variant.name}, seed {run.seed}, by {kind} ({format_number(exact)} to {format_number(value)})"
                    )
    at = f"At {written('linf', size.eps)}"
    if not tried:
        return f"{at} nothing but exact gradients was tried, so they may hide something."
    if beaten:
        return f"{at} exact gradients miss something: {_some(beaten)}."
    names = _and([kind for kind in KINDS if kind in tried])
    most = max(tried.values())
    told = f"at most {format_number(most)} lower" if most > 0 else "none is lower"
    return f"{at} nothing found what exact gradients miss, of {names} ({told})."


def _and(words: Sequence[str]) -> str:
    return ", ".join(words[:-1]) + " and " * bool(words[:-1]) + words[-1]


def _some(words: Sequence[str], count: int = 4) -> str:
    more = f"; and {len(words) - count} more" if len(words) > count else ""
    return "; ".join(words[:count]) + more


def _doubts(found: Findings, size: Size) -> list[str]:
    seeds = sorted(len(size.of(variant)) for variant in size.variants)
    doubts = []
    if found.references < FEW_REFERENCES:
        doubts.append(f"{found.references} reference images")
    if seeds[0] < 5:
        some = "one seed" if seeds[0] == 1 else f"{seeds[0]} seeds"
        doubts.append(f"{some} {'of some variants' if seeds[0] == 1 < seeds[-1] else 'a variant'}")
    doubts += ["one small network", "one budget"]
    return [f"All this is from {_and(doubts)}, and the intervals are rough."]
