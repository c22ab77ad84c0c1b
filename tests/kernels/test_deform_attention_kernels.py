"""The Triton kernels of deformable attention against the reference in float64: on a GPU, or in the interpreter."""

from __future__ import annotations

import pytest
import torch
from codetr_kernels import deform_attention, deform_attention_fused, deform_attention_reference, which_backend
from samples import DEVICE, EPSILON, ODD, Fused, assert_close, expected, fused, run
from torch import Tensor

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("garbage")]


@pytest.fixture(autouse=True)
def _kernels_run() -> None:
    assert which_backend(DEVICE).name == "triton"


@pytest.mark.parametrize(
    ("case", "settings"),
    [
        ("points", {}),
        ("boxes", {"width": 4}),
        ("no padding", {"padded": False}),
        ("one query", {"queries": 1, "width": 4}),
        ("one level of one cell", {"shapes": ((1, 1),)}),
        ("six levels", {"shapes": ((2, 3), (1, 2), (3, 1), (1, 1), (2, 2), (1, 3)), "points": 1}),
        ("eight points", {"shapes": ((3, 4),), "points": 8, "batch": 1}),
        ("channels not a power of two", {"channels": 24, "points": 3, "batch": 1}),
        ("channels of no vector", {"channels": 5, "heads": 1}),
        ("many channels", {"channels": 256, "batch": 1, "heads": 1}),
        ("more than a block", {"queries": 300, "batch": 1, "heads": 1, "shapes": ((4, 6),)}),
    ],
)
def test_output_and_gradients(case: str, settings: dict[str, object]) -> None:
    problem = fused(**settings)
    assert_close(run(problem), expected(problem), arithmetic=EPSILON[torch.float32])


@pytest.mark.parametrize("width", [2, 4])
def test_in_float64_the_arithmetic_is_that_of_the_reference(width: int) -> None:
    problem = fused(width=width, dtype=torch.float64)
    assert_close(run(problem), expected(problem), arithmetic=EPSILON[torch.float64])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_of_16_bits_only_the_results_are_rounded(dtype: torch.dtype) -> None:
    problem = fused(dtype=dtype, width=4)
    found = run(problem)
    assert [found[0].dtype, *(g.dtype for g in found[1])] == [dtype, dtype, torch.float32, dtype, dtype]
    wanted = expected(problem)
    # The softmax's gradient takes the output as it was rounded: delta is off by 8 channels x |grad| <= 4 x half a unit.
    slack = 8 * 4 * EPSILON[dtype] / 2
    torch.testing.assert_close(found[1][3].double(), wanted[1][3], rtol=EPSILON[dtype], atol=slack)
    found[1][3] = wanted[1][3]
    assert_close(found, wanted, arithmetic=EPSILON[torch.float32])


def test_locations_and_weights() -> None:
    value, locations, weights = _plain(torch.float64)
    found = _plain_run(deform_attention, value, ODD, locations, weights)
    wanted = _plain_run(deform_attention_reference, value, ODD, locations, weights)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, atol=1e-13, rtol=0)


def _plain(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    value = torch.randn(2, 30, 2, 8, dtype=dtype)
    locations = torch.rand(2, 5, 2, 3, 2, 2, dtype=dtype) * 1.6 - 0.3
    return value.to(DEVICE), locations.to(DEVICE), torch.randn(2, 5, 2, 3, 2, dtype=dtype).to(DEVICE)


def _plain_run(function, value: Tensor, shapes, locations: Tensor, weights: Tensor) -> list[Tensor]:
    inputs = [x.detach().requires_grad_() for x in (value, locations, weights)]
    output = function(inputs[0], shapes, *inputs[1:])
    grad = torch.linspace(-1, 1, output.numel(), dtype=output.dtype, device=output.device).view(output.shape)
    return [output.detach(), *torch.autograd.grad(output, inputs, grad)]


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_level_sizes_read_on_the_device_are_the_same(dtype: torch.dtype) -> None:
    problem = fused(width=4)
    wanted = run(problem)
    problem.shapes = torch.tensor(ODD, dtype=dtype, device=DEVICE)
    found = run(problem)
    assert torch.equal(found[0], wanted[0])
    for a, b in zip(found[1][1:], wanted[1][1:], strict=True):
        assert torch.equal(a, b)


def test_a_level_beyond_the_tokens_gives_nan_and_reads_nothing() -> None:
    from codetr_kernels.deform_attention.triton import launch

    problem = fused(shapes=((2, 3), (2, 2)), padded=False)
    sizes = torch.tensor([(2, 3), (2, 3)], device=DEVICE)
    given = launch.Problem(
        problem.value, [], sizes, problem.references, problem.offsets, problem.logits, problem.padding
    )
    assert launch.forward(given).isnan().all()


@pytest.mark.parametrize("tile_w", [0, 2, 4])
@pytest.mark.parametrize("block_q", [4, 16])
def test_every_order_of_the_queries_gives_the_same(tile_w: int, block_q: int) -> None:
    from codetr_kernels.deform_attention.triton.configs import Config, override

    # As many queries as cells: what an encoder has, and tiles are for.
    problem = fused(shapes=((3, 5), (1, 1)), queries=16, batch=1, heads=1)
    with override(Config(block_q, 1, 2, tile_w)):
        found = run(problem)
    assert_close(found, expected(problem), arithmetic=EPSILON[torch.float32])


def test_offsets_of_64_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    from codetr_kernels.deform_attention.triton import launch

    real = launch.constants
    monkeypatch.setattr(launch, "constants", lambda problem: {**real(problem), "WIDE": True})
    problem = fused(width=4)
    assert_close(run(problem), expected(problem), arithmetic=EPSILON[torch.float32])


def test_offsets_of_64_bits_are_taken_where_32_do_not_reach() -> None:
    from codetr_kernels.deform_attention.triton import launch

    def wide(tokens: int, queries: int) -> object:
        value = torch.empty(1, tokens, 8, 32, device="meta")
        samples = torch.empty(1, queries, 8, 4, 4, 2, device="meta")
        logits = torch.empty(1, queries, 8, 4, 4, device="meta")
        return launch.constants(launch.Problem(value, [1, tokens], None, None, samples, logits, None))["WIDE"]

    assert not wide(2**23 - 1, 8)
    assert wide(2**23, 8)
    assert not wide(8, 2**23 - 1)
    assert wide(8, 2**23)


def test_no_queries() -> None:
    problem = fused(queries=0)
    output, gradients = run(problem)
    assert output.shape == (2, 0, 16)
    assert torch.equal(gradients[0], torch.zeros_like(problem.value))
    assert [g.shape for g in gradients] == [x.shape for x in problem.inputs()]


def test_inputs_need_not_be_contiguous() -> None:
    problem = fused(width=4)
    wanted = run(problem)

    def scattered(x: Tensor) -> Tensor:
        return x.transpose(0, -1).contiguous().transpose(0, -1)

    given = Fused(*(scattered(x) if isinstance(x, Tensor) else x for x in vars(problem).values()))
    assert not given.value.is_contiguous()
    found = run(given)
    assert torch.equal(found[0], wanted[0])
    for a, b in zip(found[1][1:], wanted[1][1:], strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("place", [float("inf"), float("-inf"), float("nan"), 1e30, -1e30])
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_sample_at_no_place_reads_zeros_and_has_no_gradient(place: float) -> None:
    value, locations, weights = _plain(torch.float32)
    locations[:, 1, :, 1, 0, 0] = place
    output, by_value, by_locations, by_weights = _plain_run(deform_attention, value, ODD, locations, weights)
    without = weights.clone()
    without[:, 1, :, 1, 0] = 0
    locations[:, 1, :, 1, 0, 0] = 0.5
    wanted = _plain_run(deform_attention, value, ODD, locations, without)
    torch.testing.assert_close(output, wanted[0])
    torch.testing.assert_close(by_value, wanted[1])
    assert by_locations[:, 1, :, 1, 0].eq(0).all()
    assert by_weights[:, 1, :, 1, 0].eq(0).all()


def test_only_asked_gradients_are_made() -> None:
    problem = fused()
    offsets = problem.offsets.requires_grad_()
    output = deform_attention_fused(problem.value, ODD, problem.references, offsets, problem.logits, problem.padding)
    (found,) = torch.autograd.grad(output, offsets, problem.grad)
    assert torch.equal(found, run(problem)[1][2])
