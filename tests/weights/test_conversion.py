"""Rules by which a tensor is copied, rearranged, added or dropped, and the account of all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from codetr.errors import UserError
from codetr.weights.conversion import Conversion, Entry, Rule, check_against, convert_state


def convert(source: dict[str, Tensor], *rules: Rule) -> Conversion:
    return convert_state(source, rules)


def test_copy_renames() -> None:
    tensor = torch.tensor([1.0, 2.0])
    result = convert({"layers.3.w": tensor}, Rule(r"layers\.(\d+)\.(.*)", r"ours.\1.weights.\2"))
    assert result.entries == [Entry("layers.3.w", "mapped", "ours.3.weights.w")]
    assert list(result.state) == ["ours.3.weights.w"]
    result.state["ours.3.weights.w"].zero_()
    assert tensor.tolist() == [1.0, 2.0]


def test_swap_exchanges_the_halves_of_rows() -> None:
    result = convert({"a": torch.arange(8).view(4, 2)}, Rule("a", "b", "swap"))
    assert result.state["b"].tolist() == [[4, 5], [6, 7], [0, 1], [2, 3]]


def test_swap_columns_exchanges_the_halves_of_columns() -> None:
    result = convert({"a": torch.arange(8).view(2, 4)}, Rule("a", "b", "swap_columns"))
    assert result.state["b"].tolist() == [[2, 3, 0, 1], [6, 7, 4, 5]]


def test_stack_joins_parts_in_their_order_and_not_the_files() -> None:
    source = {"v": torch.tensor([5.0, 6.0]), "q": torch.tensor([1.0, 2.0]), "k": torch.tensor([3.0, 4.0])}
    rules = [Rule(name, "qkv", "stack", part) for part, name in enumerate("qkv")]
    result = convert(source, *rules)
    assert result.state["qkv"].tolist() == [1, 2, 3, 4, 5, 6]
    assert [entry.detail for entry in result.entries] == ["qkv"] * 3


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_shift_adds_to_the_second_half_wherever_it_stands_in_the_file(order: str) -> None:
    tensors = {"a": torch.tensor([1.0, 2.0, 3.0, 4.0]), "b": torch.tensor([10.0])}
    rules = [Rule("a", "x", "swap"), Rule("b", "x", "shift")]
    result = convert({name: tensors[name] for name in order}, *rules)
    assert result.state["x"].tolist() == [3, 4, 11, 12]
    assert result.count("mapped") == 2
    assert tensors["a"].tolist() == [1, 2, 3, 4]


def test_shift_of_a_tensor_that_is_not_there_is_unmatched() -> None:
    result = convert({"b": torch.ones(1), "c": torch.ones(1)}, Rule("b", "x", "shift"), Rule("c", "y"))
    assert [(entry.source, entry.outcome) for entry in result.entries] == [("b", "unmatched"), ("c", "mapped")]
    assert "added to x" in result.entries[0].detail
    assert list(result.state) == ["y"]


def test_drop_gives_its_reason() -> None:
    result = convert({"counter": torch.ones(1)}, Rule("counter", "bookkeeping", "drop"))
    assert result.entries == [Entry("counter", "dropped", "bookkeeping")]
    assert result.state == {}


def test_a_name_without_a_rule_is_unmatched() -> None:
    """A rule is for the whole name."""
    result = convert({"a.b": torch.ones(1), "xa": torch.ones(1), "a": torch.ones(1)}, Rule("a", "b"))
    assert [entry.outcome for entry in result.entries] == ["unmatched", "unmatched", "mapped"]
    assert [result.count(outcome) for outcome in ("mapped", "dropped", "unmatched")] == [1, 0, 2]


def test_the_first_rule_that_matches_counts() -> None:
    result = convert({"a": torch.ones(1)}, Rule("a", "first"), Rule(".*", "second"))
    assert list(result.state) == ["first"]


EXPECTED = {"base.w": torch.zeros(2), "heads.atss.w": torch.zeros(3), "adapter.w": torch.zeros(1)}


def copied(**tensors: Tensor) -> Conversion:
    """Names with `__` for the dot."""
    return convert({name.replace("__", "."): tensor for name, tensor in tensors.items()}, Rule("(.*)", r"\1"))


def error(conversion: Conversion) -> str:
    with pytest.raises(UserError) as caught:
        check_against(conversion, EXPECTED)
    return str(caught.value)


def test_what_fits_passes() -> None:
    conversion = copied(base__w=torch.ones(2), heads__atss__w=torch.ones(3), adapter__w=torch.ones(1))
    checked = check_against(conversion, EXPECTED)
    assert checked.entries == conversion.entries
    assert checked.state.keys() == EXPECTED.keys()
    assert checked.state["base.w"] is conversion.state["base.w"]


@pytest.mark.parametrize("name", ["heads.faster_rcnn.w", "positive_queries.atss.w", "adapter.v"])
def test_what_serves_training_only_is_dropped_if_the_model_has_none(name: str) -> None:
    conversion = convert({"base.w": torch.ones(2), name: torch.ones(4)}, Rule("(.*)", r"\1"))
    checked = check_against(conversion, EXPECTED)
    assert checked.entries[1] == Entry(name, "dropped", "serves training only")
    assert list(checked.state) == ["base.w"]


def test_a_file_need_not_hold_what_serves_training_only() -> None:
    assert list(check_against(copied(base__w=torch.ones(2)), EXPECTED).state) == ["base.w"]


def test_a_tensor_of_the_base_that_the_model_lacks_is_unmatched() -> None:
    message = error(copied(base__w=torch.ones(2), base__v=torch.ones(2)))
    assert message.splitlines()[:2] == [
        "1 tensors do not fit the spec:",
        "  base.v: the spec's model has no base.v",
    ]
    assert "Name the spec that the weights belong to" in message


def test_everything_that_does_not_fit_is_named_at_once() -> None:
    source = {"stray": torch.ones(1), "heads.atss.w": torch.ones(5)}
    lines = error(convert(source, Rule(r"(heads\..*)", r"\1"))).splitlines()
    assert lines[0] == "3 tensors do not fit the spec:"
    assert lines[1:4] == [
        "  stray: no tensor of this kind in the model",
        "  heads.atss.w: (5,) in the file, (3,) in the model",
        "  base.w: not in the file",
    ]


def test_a_long_list_is_cut() -> None:
    lines = error(
        convert({f"t{i}": torch.ones(1) for i in range(30)} | {"base.w": torch.ones(2)}, Rule("base.w", "base.w"))
    )
    assert lines.startswith("30 tensors do not fit") and "  t19: " in lines and "t20" not in lines
    assert "\n  and 10 more\n" in lines
