"""Foreign state dicts into ours, by rules, with an account of every tensor."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor

from codetr.errors import UserError

Outcome = Literal["mapped", "dropped", "unmatched"]

_WITHIN = "base.inner."


@dataclass(frozen=True)
class Rule:
    """What becomes of the tensors whose whole name matches `pattern`.

    target: our name, a template for `re.Match.expand`; or, with how="drop", why it is not needed.
    how: "copy"; "stack" = part `part` of several that follow each other along dimension 0; "swap" and "swap_columns" =
    the halves of dimension 0 or 1 change places; "shift" = the value is added to the second half of the target;
    "vector" = a number becomes a vector of one; "drop".
    """

    pattern: str
    target: str
    how: Literal["copy", "stack", "swap", "swap_columns", "shift", "vector", "drop"] = "copy"
    part: int = 0


@dataclass(frozen=True)
class Entry:
    """The fate of one source tensor. detail: our name, or the reason."""

    source: str
    outcome: Outcome
    detail: str


@dataclass
class Conversion:
    """state: our names to tensors. entries: one for each source tensor, in the source's order."""

    state: dict[str, Tensor] = field(default_factory=dict)
    entries: list[Entry] = field(default_factory=list)

    def count(self, outcome: Outcome) -> int:
        return sum(entry.outcome == outcome for entry in self.entries)


def convert_state(source: Mapping[str, Tensor], rules: Sequence[Rule]) -> Conversion:
    """Apply the first rule that matches each name; a name without a rule is reported as unmatched."""
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    result = Conversion()
    stacks: dict[str, dict[int, Tensor]] = {}
    shifts: list[tuple[int, str, Tensor]] = []
    for name, tensor in source.items():
        found = next(((match, rule) for regex, rule in compiled if (match := regex.fullmatch(name))), None)
        if found is None:
            result.entries.append(Entry(name, "unmatched", "no tensor of this kind in the model"))
            continue
        match, rule = found
        if rule.how == "drop":
            result.entries.append(Entry(name, "dropped", rule.target))
            continue
        target = match.expand(rule.target)
        result.entries.append(Entry(name, "mapped", target))
        if rule.how == "stack":
            stacks.setdefault(target, {})[rule.part] = tensor
        elif rule.how == "shift":
            shifts.append((len(result.entries) - 1, target, tensor))
        else:
            result.state[target] = _moved(tensor, rule)
    for target, parts in stacks.items():
        result.state[target] = torch.cat([parts[index] for index in sorted(parts)])
    for index, target, value in shifts:
        if target in result.state:
            _shift(result.state, target, value)
        else:
            reason = f"it is added to {target}, which no tensor of the file gives"
            result.entries[index] = Entry(result.entries[index].source, "unmatched", reason)
    return result


def check_against(conversion: Conversion, expected: Mapping[str, Tensor]) -> Conversion:
    """Compare with a model's state: drop what only other training parts would read, complain about the rest.

    What belongs to a base goes to the one within where the model's base wraps another.

    Raises: UserError naming tensors that are unmatched, missing or of another shape.
    """
    training_only = ("adapter.", "heads.", "positive_queries.")
    if any(name.startswith(_WITHIN) for name in expected):
        conversion = _within(conversion)
    entries, state = [], {}
    for entry in conversion.entries:
        needed = entry.outcome != "mapped" or entry.detail in expected
        if not needed and entry.detail.startswith((*training_only, "base.label_embed.")):
            entry = Entry(entry.source, "dropped", "serves training only")
        elif not needed:
            entry = Entry(entry.source, "unmatched", f"the spec's model has no {entry.detail}")
        entries.append(entry)
    for name, tensor in conversion.state.items():
        if name in expected:
            state[name] = tensor
    problems = [f"{e.source}: {e.detail}" for e in entries if e.outcome == "unmatched"]
    problems += [
        f"{name}: {tuple(state[name].shape)} in the file, {tuple(tensor.shape)} in the model"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    problems += [
        f"{name}: not in the file" for name in expected if name not in state and not name.startswith(training_only)
    ]
    if problems:
        shown = "\n  ".join(problems[:20])
        more = f"\n  and {len(problems) - 20} more" if len(problems) > 20 else ""
        raise UserError(
            f"{len(problems)} tensors do not fit the spec:\n  {shown}{more}\n"
            "Name the spec that the weights belong to, with its overrides."
        )
    return Conversion(state, entries)


def _within(conversion: Conversion) -> Conversion:
    """With the names of a base that another wraps."""

    def inner(name: str) -> str:
        return re.sub(r"^base\.", _WITHIN, name)

    entries = [replace(e, detail=inner(e.detail)) if e.outcome == "mapped" else e for e in conversion.entries]
    return Conversion({inner(name): tensor for name, tensor in conversion.state.items()}, entries)


def _moved(tensor: Tensor, rule: Rule) -> Tensor:
    if rule.how == "copy":
        return tensor.clone()
    if rule.how == "vector":
        return tensor.clone().reshape(1)
    dim = 1 if rule.how == "swap_columns" else 0
    first, second = tensor.chunk(2, dim)
    return torch.cat([second, first], dim)


def _shift(state: dict[str, Tensor], target: str, value: Tensor) -> None:
    tensor = state[target].clone()
    tensor[len(tensor) // 2 :] += value
    state[target] = tensor
