"""Suites: reading them, and the one-line messages of errors."""

from __future__ import annotations

import itertools

import pytest

from iqarena.bench.cells import expand
from iqarena.bench.errors import UserError
from iqarena.bench.inference.loading import load_model
from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS, parse_spec
from iqarena.bench.suite import SUITES, Suite, changed, load_suite, parse_size, validated
from iqarena.models.zoo import ZOO
from tests.support.attack_runs import message

MINIMAL = "models: [cnniqa]\nattacks: [fgsm]\n"


@pytest.fixture
def suite(tmp_path):
    """Load a suite from text."""

    def load(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_suite(str(path))

    return load


# --- suites


def test_a_minimal_suite_has_the_stated_defaults(suite):
    read = suite(MINIMAL)
    assert read == Suite(models=["cnniqa"], attacks=[{"attack": "fgsm"}])
    assert (read.dataset, read.defenses, read.settings, read.limit) == ("demo", ["none"], ["oblivious", "adaptive"], None)
    assert [(t.norm, t.eps, t.queries) for t in read.threats] == [("linf", 2 / 255, None)]


@pytest.mark.parametrize(
    ("written", "value"),
    [("4/255", 4 / 255), ("0.01", 0.01), ("'1 / 255'", 1 / 255), ("1", 1.0), ("'1e-2'", 0.01), ("255/255", 1.0)],
)
def test_eps_is_a_number_or_a_fraction(suite, written, value):
    assert suite(f"{MINIMAL}threats:\n  - eps: {written}\n").threats[0].eps == value


@pytest.mark.parametrize("written", ["0", "-1/255", "1.5", "256/255", ".inf", ".nan"])
def test_eps_outside_its_range_is_refused_with_its_line(suite, written):
    with pytest.raises(UserError) as error:
        suite(f"{MINIMAL}threats:\n  - norm: linf\n    eps: {written}\n")
    assert "mine.yaml:5: field threats.0.eps" in message(error)


@pytest.mark.parametrize("written", ["two", "1/0", "4/255/2", "[1]", "null"])
def test_eps_that_is_no_number_is_refused_with_its_line(suite, written):
    with pytest.raises(UserError) as error:
        suite(f"{MINIMAL}threats:\n  - eps: {written}\n")
    assert "mine.yaml:4: field threats.0.eps" in message(error)


def test_parse_size_leaves_numbers_to_the_field():
    assert parse_size(0.5) == 0.5
    assert parse_size("2/255") == 2 / 255
    with pytest.raises(ValueError, match="neither a number nor a fraction"):
        parse_size("big")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (MINIMAL + "atacks: [pgd]\n", "mine.yaml:3: field atacks: no such field"),
        (MINIMAL + "threats:\n  - norm: linf\n    epsilon: 0.1\n", "mine.yaml:5: field threats.0.epsilon: no such field"),
        (MINIMAL + "threats:\n  - norm: l7\n", "mine.yaml:4: field threats.0.norm"),
        (MINIMAL + "limit: many\n", "mine.yaml:3: field limit"),
        (MINIMAL + "limit: 1\n", "mine.yaml:3: field limit"),
        (MINIMAL + "seed: -1\n", "mine.yaml:3: field seed"),
        (MINIMAL + "settings: [sideways]\n", "mine.yaml:3: field settings.0"),
        (MINIMAL + "settings: []\n", "mine.yaml:3: field settings"),
        (MINIMAL + "threats:\n  - queries: -1\n", "mine.yaml:4: field threats.0.queries"),
        ("models: [a]\nattacks:\n  - attack: fgsm\n    objectives: [up]\n", "mine.yaml:4: field attacks.0.objectives.0"),
        ("models: cnniqa\nattacks: [fgsm]\n", "mine.yaml:1: field models"),
        ("models: [cnniqa]\nattacks: fgsm\n", "mine.yaml:2: field attacks"),
        ("models: [cnniqa]\nattacks: [3]\n", "mine.yaml:2: field attacks.0"),
        ("models: [cnniqa]\n", "field attacks"),
        ("", "a suite is a mapping"),
        ("- a\n- list\n", "a suite is a mapping"),
        ("just words\n", "a suite is a mapping"),
        (MINIMAL + "1: 2\n", "mine.yaml"),
    ],
)  # fmt: skip
def test_what_a_suite_may_not_say_is_one_line_with_file_line_and_field(suite, text, expected):
    with pytest.raises(UserError) as error:
        suite(text)
    assert expected in message(error)


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("models: [cnniqa\nattacks: [fgsm]\n", "mine.yaml:2"),
        ("models: [cnniqa]\n\tattacks: [fgsm]\n", "mine.yaml:2"),
        ("models: *unknown\n", "mine.yaml:1"),
        ("models: !!python/object:os.system [x]\n", "mine.yaml:1"),
        ("models: [a]\n---\nmodels: [b]\n", "mine.yaml"),
        (b"models: [\x00]\n", "mine.yaml"),
        (b"\xff\xfe\xfa", "mine.yaml"),
        (MINIMAL + "name: 2024-13-45\n", "mine.yaml"),
    ],
)
def test_what_is_no_yaml_is_one_line_with_file_and_line(suite, text, location):
    with pytest.raises(UserError) as error:
        suite(text)
    assert location in message(error)


def test_a_suite_that_is_not_there_lists_those_that_are(tmp_path):
    for name in ("qick", str(tmp_path / "gone.yaml"), str(tmp_path)):
        with pytest.raises(UserError) as error:
            load_suite(name)
        assert "quick" in message(error)


@pytest.mark.parametrize("name", sorted(file.stem for file in SUITES.glob("*.yaml")))
def test_every_shipped_suite_loads_expands_and_names_only_what_there_is(name):
    read = load_suite(name)
    cells = expand(read)
    assert cells
    assert len(set(cells)) == len(cells)
    for cell in cells:
        MODELS.find(parse_spec(cell.model)[0])
        DEFENSES.build(cell.defense)
        assert cell.objective in ATTACKS.build(cell.attack).objectives
        assert cell.norm in ATTACKS.build(cell.attack).norms
        assert cell.threat.size == cell.eps


def test_cells_that_share_their_attacked_images_stand_together():
    sizes = [{"eps": "1/255"}, {"eps": "2/255"}]
    read = validated({"models": ["cnniqa"], "defenses": ["none", "jpeg"], "attacks": ["fgsm", "pgd"], "threats": sizes})
    cells = expand(read)
    # 2 attacks × 2 sizes × (2 defenses × 2 settings)
    assert len(cells) == 16
    craftings = [cell.crafting for cell in cells]
    changes = sum(one != other for one, other in itertools.pairwise(craftings))
    assert changes + 1 == len(set(craftings)) == 2 * 2 * 2
    assert {cell.objective for cell in cells} == {"away"}


def test_all_attacks_on_one_model_under_one_threat_stand_together():
    sizes = [{"eps": "1/255"}, {"eps": "2/255"}]
    read = validated({"models": ["cnniqa"], "defenses": ["none", "jpeg"], "attacks": ["fgsm", "pgd"], "threats": sizes})
    scenes = [(cell.crafted_on, cell.eps) for cell in expand(read)]
    assert sum(one != other for one, other in itertools.pairwise(scenes)) + 1 == len(set(scenes)) == 2 * 2


TWO = {"models": ["cnniqa", "resnet-iqa"], "attacks": ["fgsm"]}


def test_transfer_is_crafted_on_every_other_model_of_the_suite():
    cells = expand(validated({**TWO, "settings": ["transfer"], "defenses": ["none", "jpeg"]}))
    views = {(cell.source, cell.model, cell.defense) for cell in cells}
    assert views == {(a, b, d) for a, b in itertools.permutations(TWO["models"]) for d in ("none", "jpeg")}
    assert len(cells) == 4


def test_named_sources_need_no_word_in_the_settings_and_a_model_is_no_source_of_its_own():
    cells = expand(validated({**TWO, "settings": ["oblivious"], "transfer_from": ["cnniqa"]}))
    views = sorted((cell.model, cell.setting, cell.source) for cell in cells)
    assert views == [("cnniqa", "oblivious", ""), ("resnet-iqa", "oblivious", ""), ("resnet-iqa", "transfer", "cnniqa")]


def test_a_transfer_cell_shares_the_images_of_its_sources_oblivious_cell():
    cells = expand(validated({**TWO, "settings": ["oblivious", "transfer"], "defenses": ["none", "jpeg"]}))
    assert len({cell.crafting for cell in cells}) == 2
    assert {cell.crafted_on for cell in cells} == {("cnniqa", "none"), ("resnet-iqa", "none")}
    for one, other in itertools.pairwise(cells[:4]):
        assert one.crafting == other.crafting, "they stand together in the plan"


def test_transfer_without_another_model_is_refused(suite):
    with pytest.raises(UserError, match="field transfer_from: the setting transfer needs a model other than cnniqa"):
        suite(f"{MINIMAL}settings: [transfer]\n")


PARTS = """\
models: [cnniqa, resnet-iqa]
defenses: [none, jpeg]
attacks: [fgsm, pgd]
settings: [adaptive]
parts:
  - {threats: [{eps: 4/255}], models: [cnniqa], attacks: [fgsm]}
  - {attacks: [pgd-l2], threats: [{norm: l2, eps: 1}], defenses: [none]}
"""


def test_parts_are_run_besides_with_their_fields_replaced(suite):
    cells = {(c.model, c.defense, c.attack, c.norm, round(c.eps, 4)) for c in expand(suite(PARTS))}
    own = set(itertools.product(TWO["models"], ("none", "jpeg"), ("fgsm", "pgd"), ("linf",), (round(2 / 255, 4),)))
    larger = set(itertools.product(("cnniqa",), ("none", "jpeg"), ("fgsm",), ("linf",), (round(4 / 255, 4),)))
    longer = set(itertools.product(TWO["models"], ("none",), ("pgd-l2",), ("l2",), (1.0,)))
    assert cells == own | larger | longer


def test_a_change_of_a_suite_reaches_its_parts(suite):
    cells = expand(changed(suite(PARTS), {"models": ["resnet-iqa"], "defenses": ["cprl"]}))
    assert {(c.model, c.defense) for c in cells} == {("resnet-iqa", "cprl")}
    assert {(c.norm, c.attack) for c in cells} == {("linf", "fgsm"), ("linf", "pgd"), ("l2", "pgd-l2")}


def test_a_part_replaces_only_what_a_plan_is_made_of(suite):
    with pytest.raises(UserError, match=r"mine.yaml:6: field parts.0.dataset: no such field"):
        suite(PARTS.replace("{threats", "{dataset: demo, threats"))


def test_weights_may_be_named_by_an_environment_variable(tmp_path, monkeypatch):
    monkeypatch.setenv("MY_WEIGHTS", str(ZOO))
    assert load_model("cnniqa[weights=$MY_WEIGHTS/cnniqa.safetensors]").info.weights_sha256
    monkeypatch.delenv("MY_WEIGHTS")
    with pytest.raises(UserError, match=r"\$MY_WEIGHTS/cnniqa.safetensors: cannot be read"):
        load_model("cnniqa[weights=$MY_WEIGHTS/cnniqa.safetensors]")


def test_an_attack_without_away_takes_its_own_objectives():
    cells = expand(validated({"models": ["cnniqa"], "attacks": ["score-reflection"], "settings": ["adaptive"]}))
    assert [cell.objective for cell in cells] == ["reflect"]


def test_a_part_that_wants_transfer_without_another_model_is_refused_with_its_line(suite):
    with pytest.raises(UserError) as error:
        suite(f"{MINIMAL}parts:\n  - {{defenses: [jpeg]}}\n  - {{settings: [transfer]}}\n")
    expected = "mine.yaml:5: field parts.1: the setting transfer needs a model other than cnniqa to craft on"
    assert expected in message(error)
    others = "parts:\n  - {settings: [transfer], models: [resnet-iqa], transfer_from: [cnniqa]}\n"
    assert [cell.source for cell in expand(suite(MINIMAL + others))].count("cnniqa") == 1
    with pytest.raises(UserError, match=r"field parts.0: .* other than resnet-iqa to craft on"):
        suite("models: [cnniqa, resnet-iqa]\nattacks: [fgsm]\nparts:\n  - {models: [resnet-iqa], settings: [transfer]}\n")


def test_another_model_for_a_suite_with_transfers_leaves_those_out():
    read = changed(load_suite("standard"), {"models": ["cnniqa"]})
    assert {cell.setting for cell in expand(read)} == {"oblivious", "adaptive"}
    both = validated({**TWO, "parts": [{"settings": ["adaptive", "transfer"], "defenses": ["jpeg"]}]})
    cells = expand(changed(both, {"models": ["cnniqa"]}))
    assert {(cell.defense, cell.setting) for cell in cells} == {
        ("none", "oblivious"), ("none", "adaptive"), ("jpeg", "adaptive"),
    }  # fmt: skip


def test_models_that_are_none_do_not_hide_behind_transfer(suite):
    with pytest.raises(UserError, match=r"mine.yaml:1: field models"):
        suite("models: 3\nattacks: [fgsm]\nsettings: [transfer]\ntransfer_from: [cnniqa]\n")
