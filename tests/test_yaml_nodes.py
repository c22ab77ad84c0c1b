"""YAML with sources: the scalars of YAML 1.2, keys, lines, and what is refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codetr.errors import ConfigError
from codetr.yaml_nodes import Source, dump, parse


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2e-4", 2e-4),
        ("1e5", 1e5),
        ("2.0E+3", 2000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-.inf", -math.inf),
        ("12", 12),
        ("012", 12),
        ("0x1F", 31),
        ("0o17", 15),
        ("1_000", "1_000"),
        ("12:30", "12:30"),
        ("2024-01-31", "2024-01-31"),
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("y", "y"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("", None),
        ("null", None),
        ("'2e-4'", "2e-4"),
        ("!!str 5", "5"),
        ("!!float 5", 5.0),
        ("[1, no, {a: 2}]", [1, "no", {"a": 2}]),
        ("{no: 1, 3: on}", {"no": 1, "3": "on"}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    parsed = parse(text, "x.yaml").plain()
    assert parsed == value
    assert type(parsed) is type(value)


def test_nan() -> None:
    assert math.isnan(parse(".nan", "x.yaml").plain())


def test_a_value_has_the_line_of_its_key() -> None:
    root = parse("a: 1\nb:\n  c:\n    - 1\n    - 2\n", "x.yaml")
    b = root.value["b"]
    assert str(root.value["a"].source) == "x.yaml:1"
    assert b.source == Source("x.yaml", 2)
    assert b.value["c"].source == Source("x.yaml", 3)
    assert b.value["c"].value[1].source == Source("x.yaml", 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3", "x.yaml:3: a: set twice, first in line 1; keep one"),
        ("a: [1, 2", "x.yaml:1:9: not valid YAML: expected ',' or ']', but got '<stream end>'"),
        ("a:\n\tb: 1", "x.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("a: \x07", "x.yaml: not valid YAML: unacceptable character #x0007"),
        ("? [a, b]\n: 1", "x.yaml:1: a key must be a single word"),
        (
            "a: !!python/object/apply:os.getcwd []",
            "x.yaml:1: the tag 'tag:yaml.org,2002:python/object/apply:os.getcwd'",
        ),
        ("a: !!set {b}", "x.yaml:1: the tag 'tag:yaml.org,2002:set' is not allowed: settings are plain data"),
        ("a: !!int word", "x.yaml:1: 'word' is not of the type int"),
        ("a: &b\n  c: *b", "x.yaml:1: an anchor that contains itself"),
    ],
)
def test_what_is_refused_is_named_with_its_line(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, "x.yaml")
    assert str(error.value).startswith(message)


def test_an_anchor_is_read_where_it_is_used() -> None:
    assert parse("a: &x {b: 1}\nc: *x", "x.yaml").plain() == {"a": {"b": 1}, "c": {"b": 1}}


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
WORDS = st.sampled_from(["no", "2e-4", "0x1", "1_000", "true", "~", "", " a", "a: b", "#", "=", "<<", "é", "\u2028"])
VALUES = st.recursive(
    SCALARS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | WORDS, inner, max_size=3),
    max_leaves=8,
)


@given(value=VALUES, flow=st.booleans())
def test_what_is_dumped_reads_back_to_the_same_values(value: Any, flow: bool) -> None:
    text = dump(value, flow=flow)
    back = parse(text, "x.yaml").plain()
    assert back == value
    assert repr(back) == repr(value)  # 1, 1.0 and True are equal to each other
