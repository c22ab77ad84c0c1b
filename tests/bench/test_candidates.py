"""Who is measured."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from codetr_kernels.deform_attention import deform_attention_fused_reference, deform_attention_reference

from codetr.bench.candidates import find_candidates, names, whole_of
from codetr.bench.problems import Problem, make_inputs
from codetr.errors import UserError

CPU = torch.device("cpu")


def test_everyone_is_found_or_absent_with_a_reason() -> None:
    found, absent = find_candidates(CPU)
    assert [candidate.name for candidate in found][:3] == ["codetr", "reference", "compiled"]
    assert {*(candidate.name for candidate in found), *(peer.name for peer in absent)} == set(names())
    reasons = {peer.name: peer.reason for peer in absent}
    assert reasons["original-style"] == "it runs on a GPU alone"
    assert all(reasons.values())


def test_leaving_out(monkeypatch: pytest.MonkeyPatch) -> None:
    found, absent = find_candidates(CPU, without=["compiled", "deformops"])
    assert {"compiled", "deformops"}.isdisjoint(person.name for person in [*found, *absent])
    with pytest.raises(UserError, match="did you mean 'compiled'"):
        find_candidates(CPU, without=["compile"])


def test_a_peer_of_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("my_kernels")
    module.attention = deform_attention_reference  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "my_kernels", module)
    found, _ = find_candidates(CPU, peers=["my_kernels:attention"])
    assert found[-1].name == "my_kernels:attention"
    assert found[-1].op is deform_attention_reference
    for peer in ("my_kernels", "my_kernels:other", "no_such_module:f"):
        with pytest.raises(UserError, match=f"--peer {peer}: "):
            find_candidates(CPU, peers=[peer])


def test_the_chain_around_an_operation_is_the_fused_reference() -> None:
    inputs = make_inputs(Problem("tiny", ((5, 11), (3, 6)), 2, 7, torch.float32, heads=2, channels=4), CPU)
    arguments = (inputs.value, inputs.shapes, inputs.references, inputs.offsets, inputs.logits, inputs.padding)
    assert inputs.padding.any()
    torch.testing.assert_close(
        whole_of(deform_attention_reference)(*arguments), deform_attention_fused_reference(*arguments)
    )


def test_transformers_computes_the_operation() -> None:
    pytest.importorskip("transformers")
    found = {candidate.name: candidate for candidate in find_candidates(CPU)[0]}
    inputs = make_inputs(Problem("tiny", ((5, 11), (3, 6)), 2, 7, torch.float32, heads=2, channels=4), CPU)
    arguments = (inputs.value, inputs.shapes, inputs.locations, inputs.weights)
    torch.testing.assert_close(found["transformers"].op(*arguments), deform_attention_reference(*arguments))
