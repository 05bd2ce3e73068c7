"""Suites and registries: what is read, and the one line that says what is wrong."""

from __future__ import annotations

import ast
import itertools
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from attacks.base import Attack
from attacks.pgd import PGD
from bench import registry
from bench.config import SUITES, Suite, changed, load_suite, parse_size, validated
from bench.errors import UserError
from bench.loading import load_model
from bench.plan import expand
from bench.registry import ATTACKS, DEFENSES, MODELS, Registry, parse_spec
from bench.source import source_hash
from models.zoo import ZOO

MINIMAL = "models: [cnniqa]\nattacks: [fgsm]\n"


@pytest.fixture
def suite(tmp_path):
    """Load a suite from text."""

    def load(text):
        path = tmp_path / "mine.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return load_suite(str(path))

    return load


def message(error):
    assert "\n" not in str(error.value)
    return str(error.value)


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
    ("text", "words"),
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
def test_what_a_suite_may_not_say_is_one_line_with_file_line_and_field(suite, text, words):
    with pytest.raises(UserError) as error:
        suite(text)
    assert words in message(error)


@pytest.mark.parametrize(
    ("text", "place"),
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
def test_what_is_no_yaml_is_one_line_with_file_and_line(suite, text, place):
    with pytest.raises(UserError) as error:
        suite(text)
    assert place in message(error)


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


def test_cells_that_share_their_attacked_pictures_stand_together():
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


def test_a_transfer_cell_shares_the_pictures_of_its_sources_oblivious_cell():
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


# --- specs


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("pgd", ("pgd", {})),
        (" pgd[] ", ("pgd", {})),
        ("pgd[steps=40]", ("pgd", {"steps": 40})),
        ("pgd[steps=40, step_size=0.1,random_start=false]", ("pgd", {"steps": 40, "step_size": 0.1, "random_start": False})),
        ("art:X[a=b]", ("art:X", {"a": "b"})),
    ],
)
def test_spec_is_a_name_with_parameters(spec, expected):
    assert parse_spec(spec) == expected


@pytest.mark.parametrize(
    "spec",
    ["", "pgd[steps=40", "pgd]", "pgd[steps]", "[steps=1]", "pgd[steps={]", "pgd[a=[1,2]]", "pgd[steps=2024-13-45]"],
)
def test_a_broken_spec_is_one_line_that_shows_it(spec):
    with pytest.raises(UserError) as error:
        parse_spec(spec)
    assert repr(spec) in message(error)


def test_parameters_reach_the_attack():
    assert ATTACKS.build("pgd[steps=40,random_start=false]") == PGD(steps=40, random_start=False)
    assert ATTACKS.build("torchattacks:BIM[steps=3]").parameters == {"steps": 3}
    assert ATTACKS.build("torchattacks:BIM[steps=3]").variant == "BIM"
    assert DEFENSES.build("jpeg[quality=30]").quality == 30


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("pdg", "did you mean pgd"),
        ("score-reflexion", "score-reflection"),
        ("zzzzzzzz", "known are"),
        ("torchattacks:PDG", "PGD"),
        ("pgd:x", "unknown attack 'pgd:x'"),
        ("pgd[step=4]", "no parameter 'step'; did you mean steps"),
        ("pgd[steps=many]", "steps"),
        ("pgd[steps=2.5]", "steps"),
        ("pgd[steps=0]", "at least 1"),
        ("pgd[step_size=.nan]", "above 0"),
    ],
)
def test_a_wrong_name_or_parameter_is_one_line_with_a_hint(spec, words):
    with pytest.raises(UserError) as error:
        ATTACKS.build(spec)
    assert words in message(error)


def test_defenses_and_models_give_hints_too():
    with pytest.raises(UserError, match="did you mean jpeg"):
        DEFENSES.build("jepg")
    with pytest.raises(UserError, match="did you mean cnniqa"):
        MODELS.find("cnn-iqa")
    with pytest.raises(UserError, match="outside 1"):
        DEFENSES.build("jpeg[quality=0]")


# --- plugins in files

PLUGIN = """
from dataclasses import dataclass
from typing import ClassVar
from attacks.base import Attack

@dataclass(frozen=True)
class Mine(Attack):
    name: ClassVar[str] = "mine"
    access: ClassVar[str] = "none"
    power: int = 3

    def run(self, target, images, objective, threat, generator):
        return images

class NoAttack:
    pass
"""


def test_an_attack_in_a_file_is_found_by_path_and_class(tmp_path):
    (tmp_path / "plugin.py").write_text(PLUGIN)
    made = ATTACKS.build(f"file:{tmp_path}/plugin.py:Mine[power=7]")
    assert isinstance(made, Attack)
    assert made.power == 7
    assert torch.equal(made.run(None, torch.ones(1), None, None, None), torch.ones(1))
    assert source_hash(made)


@pytest.mark.parametrize(
    ("file", "content", "name", "words"),
    [
        ("plugin.py", None, "Mine", "a file that exists"),
        ("plugin.py", PLUGIN, "Other", "holds no Attack called 'Other'"),
        ("plugin.py", PLUGIN, "NoAttack", "holds no Attack called 'NoAttack'"),
        ("plugin.py", "import nothing_like_it\n", "Mine", "No module named"),
        ("plugin.py", "def broken(:\n", "Mine", "SyntaxError"),
        ("plugin.py", "raise ValueError('two\\nlines')\n", "Mine", "two"),
        ("plugin.py", "raise SystemExit(1)\n", "Mine", "SystemExit"),
        ("plugin.txt", PLUGIN, "Mine", "plugin.txt"),
    ],
)
def test_a_file_that_holds_no_such_plugin_is_one_line(tmp_path, file, content, name, words):
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError) as error:
        ATTACKS.build(f"file:{tmp_path}/{file}:{name}")
    assert words in message(error)


# --- registries of packages


@pytest.fixture
def package(tmp_path, monkeypatch, request):
    """A registry of attacks over a package made of `files`, name → text."""
    name = f"plugins_{abs(hash(request.node.name))}"

    def make(files):
        root = tmp_path / name
        for path, text in {"__init__.py": "", **files}.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        return Registry("attack", name, Attack)

    yield make
    for module in [m for m in sys.modules if m.startswith(name)]:
        del sys.modules[module]


def test_a_broken_module_stays_visible_and_takes_no_other_with_it(package):
    found = package({"good.py": PLUGIN, "bad_one.py": "import nothing_like_it\n", "worse.py": "raise SystemExit(1)\n"})
    assert found.names() == ["bad-one", "mine", "worse"]
    assert "nothing_like_it" in found.entries["bad-one"].error
    assert found.entries["bad-one"].made is None
    assert isinstance(found.build("mine"), Attack)
    with pytest.raises(UserError) as error:
        found.build("bad-one")
    assert "'bad-one' is broken: ModuleNotFoundError" in message(error)


@pytest.mark.parametrize("text", ["import nothing_like_it\n", "raise ValueError('broken')\n"])
def test_a_broken_subpackage_stays_visible_and_takes_no_other_with_it(package, text):
    found = package({"a_sub/__init__.py": text, "good.py": PLUGIN})
    assert found.names() == ["a-sub", "mine"]
    assert found.entries["a-sub"].made is None


def test_two_owners_of_a_name_are_an_error_and_never_a_silent_winner(package):
    found = package({"one.py": PLUGIN, "two.py": PLUGIN})
    assert found.names() == ["mine"]
    with pytest.raises(UserError) as error:
        found.build("mine")
    assert "two attacks are called mine" in message(error)


def test_three_owners_of_a_name_are_an_error_too(package):
    found = package({"one.py": PLUGIN, "two.py": PLUGIN, "zed.py": PLUGIN})
    assert found.entries["mine"].made is None


def test_a_class_that_is_only_imported_or_abstract_is_no_entry(package):
    abstract = "from attacks.base import Attack\nclass Half(Attack):\n    name = 'half'\n"
    found = package({"one.py": PLUGIN, "other.py": "from attacks.pgd import PGD\n", "half.py": abstract})
    assert found.names() == ["mine"]


def test_entry_points_are_registered_broken_ones_with_their_error(package, monkeypatch):
    points = [
        EntryPoint("far", "attacks.pgd:PGD", "g"),
        EntryPoint("gone", "no_such_module:X", "g"),
        EntryPoint("odd", "attacks.threat:Threat", "g"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    found = package({})
    assert found.names() == ["far", "gone", "odd"]
    assert found.build("far[steps=2]") == PGD(steps=2)
    assert "no_such_module" in found.entries["gone"].error
    assert "no Attack" in found.entries["odd"].error


def test_nothing_that_ships_is_broken():
    for registered in (MODELS, DEFENSES, ATTACKS):
        assert [entry.name for entry in registered.entries.values() if entry.error] == []


def test_the_source_hash_follows_code_and_not_words(tmp_path):
    texts = {
        "plain": PLUGIN,
        "words": '"""Words."""\n# a remark\n' + PLUGIN,
        "other": PLUGIN.replace("power: int = 3", "power: int = 4"),
    }
    hashes = {}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        hashes[name] = source_hash(ATTACKS.build(f"file:{tmp_path}/{name}.py:Mine"))
    assert hashes["plain"] == hashes["words"] != hashes["other"]


def test_the_source_hash_follows_what_a_plugin_imports_of_the_project(monkeypatch):
    """Projected steps are made of `attacks.descent` and `attacks.threat`; a contract and a library are not looked into."""
    from bench import source

    def hashed(changed: str) -> str:
        for cached in (source._module_hash, source._read):
            cached.cache_clear()
        real = source._tree
        with monkeypatch.context() as patch:
            patch.setattr(source, "_tree", lambda name: ast.parse("x = 1") if name == changed else real(name))
            return source_hash(PGD())

    before = hashed("nothing")
    assert [hashed(f"attacks.{name}") == before for name in ("threat", "best", "square", "base")] == [
        False,
        False,
        True,
        True,
    ]
    for cached in (source._module_hash, source._read):
        cached.cache_clear()


@pytest.mark.parametrize("eps", ["0.5/255", 0.003, "1e999"])
def test_sizes_that_change_nothing_or_are_no_number_are_refused(eps):
    with pytest.raises(UserError, match="eps"):
        validated({"models": ["resnet-iqa"], "attacks": ["pgd"], "threats": [{"eps": eps}]})


LEFT_OUT = {
    "attacks": {"zhang-dists"},
    "defenses": {"art:TotalVarMin"},
    "models": {"dbcnn", "hyperiqa", "linearity-iqa", "nima-mobilenet", "resnet18-iqa", "resnet50-iqa", "wadiqam-nr-full"},
}
"""With the reasons in the suite's own comment; models without shipped weights."""


def test_the_standard_suite_covers_the_registries_but_for_what_it_says():
    cells = expand(load_suite("standard"))
    used = {
        "attacks": {parse_spec(cell.attack)[0] for cell in cells},
        "defenses": {parse_spec(cell.defense)[0] for cell in cells},
        "models": {cell.model for cell in cells},
    }
    for kind, registered in {"attacks": ATTACKS, "defenses": DEFENSES, "models": MODELS}.items():
        assert used[kind] == set(registered.names()) - LEFT_OUT[kind], kind
    for cell in cells:
        assert ATTACKS.build(cell.attack)
        assert DEFENSES.build(cell.defense)
    comment = (SUITES / "standard.yaml").read_text().partition("\nname:")[0]
    for name in LEFT_OUT["attacks"] | LEFT_OUT["defenses"]:
        assert name in comment
