"""Readers of text that others write, with what no one would write: each gives a result or a user error of one line."""

from __future__ import annotations

import contextlib
import functools

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from iqarena.bench.cells import canonical
from iqarena.bench.datasets import open_dataset
from iqarena.bench.errors import UserError
from iqarena.bench.registry import ATTACKS, DEFENSES, MODELS, parse_spec
from iqarena.bench.suite import Suite, load_suite, parse_size, size_hints
from iqarena.models.zoo.plain_yaml import read_yaml
from tests.support.attack_runs import message
from tests.support.fuzz import FUZZ, ODD, refusal

FIELDS = [*Suite.model_fields, "threats: [{eps", "parts: [{models", "attacks: [{attack"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder for the files of one test after the other."""
    return tmp_path_factory.mktemp("fuzz")


def bomb(levels):
    """Return a suite of a few lines whose aliases stand for 9 ** levels values."""
    lines = ["a0: &a0 [x]"]
    lines += [f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join([*lines, f"models: *a{levels - 1}", "attacks: [fgsm]"])


fields = st.lists(st.tuples(st.sampled_from(FIELDS), st.sampled_from(ODD) | st.text(max_size=12)), max_size=4)


@FUZZ
@given(fields, st.binary(max_size=30))
@example([], b"\xff\xfe\x00")
@example([], b"a: &a\n  <<: *a\n")
@example([], bomb(12).encode())
@example([], b"- " * 3000)
@example([], b"models: [cnniqa]\nattacks: [fgsm]\nattacks: [pgd]\n")
def test_a_suite_is_read_or_refused_in_one_line(folder, odd, raw):
    lines = [f"{name}: {value}{'}]' * ('{' in name)}" for name, value in odd]
    text = "models: [cnniqa]\nattacks: [fgsm]\n" * (not raw) + "\n".join(lines)
    path = folder / "s.yaml"
    path.write_bytes(text.encode("utf-8", "replace") + b"\n" + raw)
    refused = refusal(lambda: load_suite(str(path)), UserError)
    assert refused == "" or str(path) in refused


spec_texts = st.builds(
    "{}{}[{}]{}".format,
    st.sampled_from(["pgd", "jpeg", "cnniqa", "art:FGSM", "torchattacks:PGD", "folder", "file:x.py:C", "file:", "", "a+b"]),
    st.sampled_from(["", " ", "\r", "\0"]),
    st.lists(
        st.builds(
            "{}={}".format, st.sampled_from(["steps", "quality", "weights", "low", "", "image"]), st.sampled_from(ODD)
        ),
        max_size=3,
    ).map(",".join),
    st.sampled_from(["", "+flip", "]", "\ud800"]),
)


@FUZZ
@given(spec_texts | st.text(max_size=30))
@example("file:" + "a" * 300 + ".py:C")
@example("file:~nobody/a.py:C")
@example("+" * 100_000)
def test_a_spec_is_built_or_refused_in_one_line(folder, spec):
    for read in (parse_spec, ATTACKS.build, DEFENSES.build, MODELS.find, lambda text: open_dataset(text, folder / "gone")):
        refusal(functools.partial(read, spec), UserError)
    for kind in ("attack", "defense", "model", "data set"):
        assert canonical(kind, canonical(kind, spec)) == canonical(kind, spec)


@FUZZ
@given(st.text(max_size=12) | st.sampled_from(ODD))
def test_a_size_is_a_number_or_refused(text):
    with contextlib.suppress(ValueError):
        assert isinstance(parse_size(text), float)


def test_a_bomb_of_aliases_and_a_key_that_is_there_twice_are_named_with_their_lines(tmp_path):
    path = tmp_path / "s.yaml"
    for text, expected in (
        (bomb(12), "values, with its aliases written out"),
        (
            "models: [a]\nattacks: [b]\nthreats:\n  - eps: 1\n    eps: 2\n",
            "s.yaml:5: not valid YAML: eps is there twice, first",
        ),
        ("models: &m [*m]\nattacks: [b]\n", "s.yaml:1: not valid YAML: an alias contains itself"),
        ("[" * 5000, "nested too deep"),
    ):
        path.write_text(text)
        with pytest.raises(UserError) as error:
            load_suite(str(path))
        assert expected in message(error)


def test_a_few_aliases_are_as_good_as_what_they_stand_for(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text("models: &m [cnniqa, resnet-iqa]\nattacks: [fgsm]\ntransfer_from: *m\n")
    assert load_suite(str(path)).transfer_from == ["cnniqa", "resnet-iqa"]


def test_a_suite_is_utf_8_whatever_the_locale_is(tmp_path):
    path = tmp_path / "s.yaml"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text("# größe\nname: ε\nmodels: [cnniqa]\nattacks: [fgsm]\n", encoding=encoding)
        assert load_suite(str(path)).name == "ε"
    path.write_bytes("name: größe\n".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_suite(str(path))


@pytest.mark.parametrize("value", [".nan", ".inf", "1e999"])
def test_a_number_of_a_suite_is_finite(tmp_path, value):
    path = tmp_path / "s.yaml"
    for text in (f"attacks: [{{attack: fgsm, target: {value}}}]\n", f"attacks: [fgsm]\nseconds: {value}\n"):
        path.write_text(f"models: [cnniqa]\n{text}")
        with pytest.raises(UserError) as error:
            load_suite(str(path))
        assert "s.yaml:" in message(error)


@pytest.mark.parametrize(
    ("eps", "hint"),
    [
        ("2/255", None),
        (2 / 255, None),
        (1.0, None),
        ("0.00784", "eps 0.00784 is 1.9992 levels of 255, of which 1 can be used: write 1/255 or 2/255"),
        ("0.0313", "of which 7 can be used: write 7/255 or 8/255"),
    ],
)
def test_a_size_between_two_levels_of_an_image_has_a_hint(eps, hint):
    hints = size_hints(Suite(models=["cnniqa"], attacks=[{"attack": "fgsm"}], threats=[{"eps": eps}]))
    assert len(hints) == (hint is not None)
    assert not hints or hint in hints[0]


def test_other_norms_have_no_levels():
    assert not size_hints(Suite(models=["a"], attacks=[{"attack": "b"}], threats=[{"norm": "l2", "eps": 0.0078}]))


def test_the_reader_of_yaml_has_its_error_for_everything():
    assert read_yaml(b"")[1] is None
    for value in ODD:
        with contextlib.suppress(yaml.YAMLError):
            read_yaml(value)
