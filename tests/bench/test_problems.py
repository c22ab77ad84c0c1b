"""The problems and their inputs."""

from __future__ import annotations

import pytest
import torch

from codetr.bench.problems import Problem, image_levels, make_inputs, paper_problems, select
from codetr.errors import UserError

CPU = torch.device("cpu")
TINY = Problem("tiny", ((2, 20), (1, 10)), 2, None, torch.bfloat16, heads=2, channels=4, points=3)


def test_the_levels_of_an_image_of_800_x_1333() -> None:
    assert image_levels((8, 16, 32, 64)) == ((100, 167), (50, 84), (25, 42), (13, 21))
    tokens = {problem.name: problem.tokens for problem in paper_problems()}
    assert tokens["encoder-l4-b2-fp32"] == 22_223
    assert tokens["decoder900-l5-b8-bf16"] == 89_023
    assert len(tokens) == 64


def test_encoder_references_are_cell_centres() -> None:
    references = make_inputs(TINY, CPU).references
    assert references.shape == (2, 50, 2, 2)
    torch.testing.assert_close(references[0, 0, 0], torch.tensor([0.025, 0.25]))
    torch.testing.assert_close(references[1, 21, 1], torch.tensor([0.075, 0.75]))
    torch.testing.assert_close(references[1, 40, 0], torch.tensor([0.05, 0.5]))


def test_padding_is_the_right_tenth_of_every_second_image() -> None:
    padding = make_inputs(TINY, CPU).padding
    assert padding.sum(1).tolist() == [0, 5]
    assert padding[1].nonzero().flatten().tolist() == [18, 19, 38, 39, 49]


def test_inputs_have_the_dtype_and_are_the_same_every_time() -> None:
    first, second = make_inputs(TINY, CPU), make_inputs(TINY, CPU)
    assert torch.equal(first.value, second.value)
    assert torch.equal(first.grad, second.grad)
    assert {first.value.dtype, first.offsets.dtype, first.logits.dtype, first.weights.dtype} == {torch.bfloat16}
    assert {first.references.dtype, first.locations.dtype} == {torch.float32}
    assert first.locations.shape == (2, 50, 2, 2, 3, 2)
    assert first.weights.shape == (2, 50, 2, 2, 3)


def test_selecting() -> None:
    names = [problem.name for problem in select(["encoder-l4-b1-*", "small-decoder-fp32"], device=CPU, quick=False)]
    assert names == ["small-decoder-fp32", "encoder-l4-b1-fp32", "encoder-l4-b1-bf16"]
    assert {p.batch for p in select([], device=torch.device("cuda"), quick=False)} == {2}
    assert len(select([], device=CPU, quick=True)) == 2


def test_selecting_nothing_names_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'encoder-l4-b1-fp32'"):
        select(["encoder-l4-b1-fp23"], device=CPU, quick=False)
