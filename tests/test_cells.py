"""The spelling of specs in cells: one for all that mean the same, and that of the shipped suites and the committed cells."""

from __future__ import annotations

import pytest

from iqarena.bench.cells import canonical, expand
from iqarena.bench.checkout import ROOT
from iqarena.bench.results.store import Records
from iqarena.bench.suite import SUITES, load_suite, validated


@pytest.mark.parametrize(
    ("kind", "spec", "spelled"),
    [
        ("attack", "pgd[steps=2, restarts=1]", "pgd[steps=2]"),
        ("attack", " pgd [restarts=1,steps= 2,] ", "pgd[steps=2]"),
        ("attack", "pgd[steps=0x2,random_start=yes]", "pgd[steps=2]"),
        ("attack", "pgd[steps=10]", "pgd"),
        ("attack", "pgd[]", "pgd"),
        ("attack", "pgd[restarts=3]", "pgd[steps=10,restarts=3]"),  # as a shipped suite has it
        ("attack", "pgd[random_start=off,restarts=2,steps=1]", "pgd[steps=1,restarts=2,random_start=false]"),
        ("attack", "torchattacks:SPSA[nb_sample=16, nb_iter=5]", "torchattacks:SPSA[nb_iter=5,nb_sample=16]"),
        ("attack", "torchattacks:CW[lr=1.0e-2,steps=2]", "torchattacks:CW[lr=0.01,steps=2]"),
        ("attack", "torchattacks:CW[c=3.0]", "torchattacks:CW[c=3.0]"),  # who knows whether 3 is the same there
        ("attack", "nothing[ a = 1 ]", "nothing[ a = 1 ]"),  # refused where it is used
        ("attack", "pgd[steps=many]", "pgd[steps=many]"),
        ("defense", "jpeg[quality = 30] + flip", "jpeg[quality=30]+flip"),
        ("defense", "cprl[through=sharper, weights=default-1]", "cprl[weights=default-1,through=sharper]"),
        (
            "defense",
            "median-smoothing[draws=10, confidence=0.990,certify_draws=310,surrogate_draws=2]",
            "median-smoothing[draws=10,surrogate_draws=2,certify_draws=310,confidence=0.99]",
        ),
        ("model", "resnet-iqa[ weights = plain-1 ]", "resnet-iqa[weights=plain-1]"),
        ("model", "resnet-iqa[high=5, weights=./a/./w.pt]", "resnet-iqa[weights=a/w.pt,high=5]"),
        ("model", "resnet-iqa[weights=./w.pt]", "resnet-iqa[weights=w.pt]"),
        ("model", "resnet-iqa[weights=./plain-1]", "resnet-iqa[weights=./plain-1]"),  # a file, not a label
        ("model", "file:./tiny.py:Tiny", "file:tiny.py:Tiny"),
        ("model", "file:../a//b/./tiny.py:Tiny", "file:../a/b/tiny.py:Tiny"),
        ("model", "A model [of mine]", "A model [of mine]"),
        ("data set", "folder[mos = MOS, low=1]", "folder[mos=MOS,low=1]"),
    ],
)
def test_specs_that_mean_the_same_have_one_spelling(kind, spec, spelled):
    assert canonical(kind, spec) == spelled
    assert canonical(kind, spelled) == spelled


def test_cells_of_specs_that_mean_the_same_are_one_cell():
    spellings = ["pgd[steps=2,restarts=1]", "pgd[steps=2, restarts=1]", "pgd[restarts=1,steps=2]", "pgd[steps=2]"]
    suite = {"models": ["cnniqa", " cnniqa"], "defenses": ["jpeg[quality=30]", "jpeg[ quality=30 ]"]}
    cells = expand(validated({**suite, "attacks": spellings, "dataset": " demo "}))
    assert [(cell.dataset, cell.model, cell.defense, cell.attack, cell.setting) for cell in cells] == [
        ("demo", "cnniqa", "jpeg[quality=30]", "pgd[steps=2]", setting) for setting in ("oblivious", "adaptive")
    ]


def test_a_model_is_no_source_of_itself_however_it_is_spelled():
    suite = {"models": ["cnniqa"], "attacks": ["fgsm"], "transfer_from": [" cnniqa", "resnet-iqa"], "settings": ["transfer"]}
    assert [cell.source for cell in expand(validated(suite))] == ["resnet-iqa"]


def test_shipped_suites_are_spelled_so_already():
    for file in SUITES.glob("*.yaml"):
        suite = load_suite(str(file))
        for part in (suite, *suite.parts):
            written = [("model", spec) for spec in [*(part.models or []), *(part.transfer_from or [])]]
            written += [("defense", spec) for spec in part.defenses or []]
            written += [("attack", attack.attack) for attack in part.attacks or []]
            assert [spec for kind, spec in written if canonical(kind, spec) != spec] == []


@pytest.mark.skipif(not (ROOT / "results").is_dir(), reason="no committed results here")
def test_committed_cells_keep_their_specs_and_so_their_ids():
    specs = set()
    for record in Records(ROOT / "results").all():
        cell = record["cell"]
        specs |= {("model", cell["model"]), ("model", cell["source"] or cell["model"]), ("defense", cell["defense"])}
        specs |= {("attack", cell["attack"]), ("data set", cell["dataset"])}
    assert len(specs) > 100
    assert [spec for kind, spec in sorted(specs) if canonical(kind, spec) != spec] == []
