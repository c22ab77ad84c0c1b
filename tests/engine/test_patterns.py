"""Parameters by a piece of their names."""

from __future__ import annotations

from torch import nn

from codetr.engine.patterns import hint, matching


def model() -> nn.Module:
    block = nn.Sequential(nn.Conv2d(2, 4, 1), nn.GroupNorm(2, 4))
    return nn.ModuleDict({"backbone": block, "norm_of_rows": nn.Linear(2, 2, bias=False), "again": block})


def chosen(pattern: str) -> list[str]:
    built = model()
    found = matching(built, pattern)
    return [name for name, parameter in built.named_parameters() if parameter in found]


def test_a_pattern_is_a_piece_of_any_name_of_a_parameter() -> None:
    everything = ["backbone.0.weight", "backbone.0.bias", "backbone.1.weight", "backbone.1.bias", "norm_of_rows.weight"]
    assert chosen("bias") == ["backbone.0.bias", "backbone.1.bias"]
    assert chosen("backbone.0") == ["backbone.0.weight", "backbone.0.bias"]
    assert chosen("again.1.w") == ["backbone.1.weight"]  # the other name of a shared one
    assert chosen("") == everything
    assert chosen("head") == []


def test_norm_means_norm_layers_too() -> None:
    assert chosen("norm") == ["backbone.1.weight", "backbone.1.bias", "norm_of_rows.weight"]
    assert chosen("norm_of") == ["norm_of_rows.weight"]
    assert chosen("Norm") == []


def test_a_hint_names_what_is_near_or_what_there_is() -> None:
    assert hint(model(), "bakbone") == "Did you mean 'backbone'?"
    assert hint(model(), "zzz") == ("Names begin with again.0, again.1, backbone.0, backbone.1, norm_of_rows.weight.")
