"""Specs, plugins in files and packages, entry points, source hashes."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import EntryPoint

import pytest
import torch

from iqarena.attacks.base import Attack
from iqarena.attacks.pgd import PGD
from iqarena.bench import code_hash, registry
from iqarena.bench.cells import expand
from iqarena.bench.code_hash import source_hash
from iqarena.bench.errors import UserError
from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS, Registry, parse_spec
from iqarena.bench.suite import SUITES, load_suite, validated
from tests.support.attack_runs import message

# --- specs


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("pgd", ("pgd", {})),
        (" pgd[] ", ("pgd", {})),
        ("pgd[steps=40]", ("pgd", {"steps": 40})),
        ("pgd[steps=40, step_size=0.1,random_start=false]", ("pgd", {"steps": 40, "step_size": 0.1, "random_start": False})),
        ("art:X[a=b]", ("art:X", {"a": "b"})),
        ("torchscript:my net [v2].pt", ("torchscript:my net [v2].pt", {})),
        ("torchscript:a [v2].pt[low=0,high=9]", ("torchscript:a [v2].pt", {"low": 0, "high": 9})),
        ("file:[old]/net.py:Net[x=1]", ("file:[old]/net.py:Net", {"x": 1})),
    ],
)
def test_spec_is_a_name_with_parameters(spec, expected):
    assert parse_spec(spec) == expected


@pytest.mark.parametrize(
    "spec",
    [
        "",
        "pgd[steps=40",
        "pgd]",
        "pgd[steps]",
        "[steps=1]",
        "pgd[steps={]",
        "pgd[a=[1,2]]",
        "pgd[steps=2024-13-45]",
        f"pgd[a={'[' * 100_000}]",
        f"pgd[a={'{' * 2000}]",
        "pgd[a=!!bool maybe]",
        "pgd[steps=1,steps=2]",
        "pgd[steps= ,=2]",
        "pgd[step=.nan]",
        "pgd[step=-inf]",
        "pgd[step=1e999]",
        "pgd[steps=9223372036854775808]",
    ],
)
def test_a_broken_spec_is_one_line_that_shows_it(spec):
    with pytest.raises(UserError) as error:
        parse_spec(spec)
    assert repr(spec[:200])[:-1] in message(error)


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
        ("pgd[step_size=.nan]", "must be finite"),
        ("PGD", "did you mean pgd?"),
        ("Torchattacks:pgd", "did you mean torchattacks:PGD?"),
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
from iqarena.attacks.base import Attack

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
    attack = ATTACKS.build(f"file:{tmp_path}/plugin.py:Mine[power=7]")
    assert isinstance(attack, Attack)
    assert attack.power == 7
    assert torch.equal(attack.run(None, torch.ones(1), None, None, None), torch.ones(1))
    assert source_hash(attack)


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
    attacks = package({"good.py": PLUGIN, "bad_one.py": "import nothing_like_it\n", "worse.py": "raise SystemExit(1)\n"})
    assert attacks.names() == ["bad-one", "mine", "worse"]
    assert "nothing_like_it" in attacks.entries["bad-one"].error
    assert attacks.entries["bad-one"].cls is None
    assert isinstance(attacks.build("mine"), Attack)
    with pytest.raises(UserError) as error:
        attacks.build("bad-one")
    assert "'bad-one' is broken: ModuleNotFoundError" in message(error)


@pytest.mark.parametrize("text", ["import nothing_like_it\n", "raise ValueError('broken')\n"])
def test_a_broken_subpackage_stays_visible_and_takes_no_other_with_it(package, text):
    attacks = package({"a_sub/__init__.py": text, "good.py": PLUGIN})
    assert attacks.names() == ["a-sub", "mine"]
    assert attacks.entries["a-sub"].cls is None


def test_two_owners_of_a_name_are_an_error_and_never_a_silent_winner(package):
    attacks = package({"one.py": PLUGIN, "two.py": PLUGIN})
    assert attacks.names() == ["mine"]
    with pytest.raises(UserError) as error:
        attacks.build("mine")
    assert "two attacks are called mine" in message(error)


def test_three_owners_of_a_name_are_an_error_too(package):
    attacks = package({"one.py": PLUGIN, "two.py": PLUGIN, "zed.py": PLUGIN})
    assert attacks.entries["mine"].cls is None


def test_a_class_that_is_only_imported_or_abstract_is_no_entry(package):
    abstract = "from iqarena.attacks.base import Attack\nclass Half(Attack):\n    name = 'half'\n"
    attacks = package({"one.py": PLUGIN, "other.py": "from iqarena.attacks.pgd import PGD\n", "half.py": abstract})
    assert attacks.names() == ["mine"]


def test_entry_points_are_registered_broken_ones_with_their_error(package, monkeypatch):
    points = [
        EntryPoint("far", "iqarena.attacks.pgd:PGD", "g"),
        EntryPoint("gone", "no_such_module:X", "g"),
        EntryPoint("odd", "iqarena.attacks.threat:Threat", "g"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    attacks = package({})
    assert attacks.names() == ["far", "gone", "odd"]
    assert attacks.build("far[steps=2]") == PGD(steps=2)
    assert "no_such_module" in attacks.entries["gone"].error
    assert "no Attack" in attacks.entries["odd"].error


def test_nothing_that_ships_is_broken():
    for registered in (MODELS, DEFENSES, ATTACKS):
        assert [entry.name for entry in registered.entries.values() if entry.error] == []


def test_the_source_hash_follows_code_and_not_words(tmp_path):
    texts = {
        "plain": PLUGIN,
        "words": '"""Words."""\n# a remark\n' + PLUGIN,
        "text_below_a_constant": PLUGIN.replace("    power: int = 3\n", '    power: int = 3\n    """Its exponent."""\n'),
        "other": PLUGIN.replace("power: int = 3", "power: int = 4"),
        "other_text": PLUGIN.replace("power: int = 3", 'power: int = 3\n    word: ClassVar[str] = "a text that is a value"'),
    }
    hashes = {}
    for name, text in texts.items():
        (tmp_path / f"{name}.py").write_text(text)
        hashes[name] = source_hash(ATTACKS.build(f"file:{tmp_path}/{name}.py:Mine"))
    assert hashes["plain"] == hashes["words"] == hashes["text_below_a_constant"]
    assert len({hashes["plain"], hashes["other"], hashes["other_text"]}) == 3


def test_the_source_hash_does_not_know_below_which_root_a_module_is_imported():
    tree = "from {0}attacks.base import Attack\nimport {0}models.nss\nimport torch\n"
    plain = [code_hash._hash_of_tree(ast.parse(tree.format(root)))[0] for root in ("iqarena.", "")]
    assert plain[0] == plain[1]


def test_the_source_hash_follows_what_a_plugin_imports_of_the_project(monkeypatch):
    """The hash of PGD covers `attacks.descent` and `attacks.threat`, but neither contracts nor libraries."""

    def hashed(changed: str) -> str:
        for cached in (code_hash._module_hash, code_hash._read):
            cached.cache_clear()
        real = code_hash._tree
        with monkeypatch.context() as patch:
            patch.setattr(code_hash, "_tree", lambda name: ast.parse("x = 1") if name == changed else real(name))
            return source_hash(PGD())

    before = hashed("nothing")
    matters = {name: hashed(f"iqarena.attacks.{name}") != before for name in ("threat", "best", "square", "base")}
    assert matters == {"threat": True, "best": True, "square": False, "base": False}
    for cached in (code_hash._module_hash, code_hash._read):
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
"""Registered plugins that the suite leaves out for the reasons in its comment; models without shipped weights."""


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
