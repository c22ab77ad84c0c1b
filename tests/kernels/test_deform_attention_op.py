"""Deformable attention as an operator of torch: autograd, determinism, compile, export, autocast, checkpointing."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from codetr_kernels import deform_attention, deform_attention_fused, deform_attention_fused_reference
from samples import DEVICE, ODD, Fused, expected, fused, run
from torch import Tensor, nn

pytestmark = pytest.mark.kernel

TINY = ((2, 2), (1, 3))


def tiny(**settings: object) -> Fused:
    """Small enough for derivatives one number at a time."""
    return fused(TINY, batch=1, queries=2, heads=1, channels=2, dtype=torch.float64, **settings)


def of_inputs(problem: Fused, **settings: object) -> tuple[Callable[..., Tensor], list[Tensor]]:
    inputs = [tensor.detach().requires_grad_() for tensor in problem.inputs()]

    def function(value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        return deform_attention_fused(value, problem.shapes, references, offsets, logits, problem.padding, **settings)

    return function, inputs


@pytest.mark.parametrize("width", [2, 4])
def test_gradients_are_those_of_finite_differences(width: int) -> None:
    function, inputs = of_inputs(tiny(width=width))
    # A kink at each cell's centre: none of the 8 samples lies as near to one as the step of 1e-6.
    assert torch.autograd.gradcheck(function, inputs, nondet_tol=1e-12)


def test_second_derivatives_go_through_the_reference() -> None:
    problem = tiny(width=4)
    function, inputs = of_inputs(problem)

    def reference(value: Tensor, references: Tensor, offsets: Tensor, logits: Tensor) -> Tensor:
        return deform_attention_fused_reference(value, TINY, references, offsets, logits, problem.padding)

    def penalty(f: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        first = torch.autograd.grad(f(*inputs), inputs, problem.grad, create_graph=True)
        return torch.autograd.grad(sum(g.square().sum() for g in first), inputs)

    for a, b in zip(penalty(function), penalty(reference), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
        assert b.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_deterministic_sums_do_not_depend_on_the_order(dtype: torch.dtype) -> None:
    problem = fused(((2, 2),), batch=1, queries=40, heads=1, dtype=dtype, padded=False)
    wanted = run(problem, deterministic=True)[1][0]
    order = torch.randperm(40)
    shuffled = Fused(
        problem.value,
        problem.shapes,
        *(x[:, order] for x in (problem.references, problem.offsets, problem.logits)),
        None,
        problem.grad[:, order],
    )
    assert torch.equal(run(shuffled, deterministic=True)[1][0], wanted)
    # Float32 contributions are rounded once each, to 2**-24 of themselves; the sum of 40 integers is exact.
    exact = expected(problem)[1][0]
    torch.testing.assert_close(wanted.double(), exact, rtol=2**-10 if dtype == torch.float16 else 1e-6, atol=1e-4)


def test_torch_asks_for_determinism(monkeypatch: pytest.MonkeyPatch) -> None:
    from codetr_kernels.deform_attention.triton import launch

    asked: list[bool] = []
    real = launch.backward

    def spy(*args: object, **kwargs: object) -> object:
        asked.append(bool(kwargs["deterministic"]))
        return real(*args, **kwargs)

    monkeypatch.setattr(launch, "backward", spy)
    run(fused())
    torch.use_deterministic_algorithms(True)
    try:
        run(fused())
    finally:
        torch.use_deterministic_algorithms(False)
    assert asked == [False, True]


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
@pytest.mark.parametrize("form", ["fused", "plain"])
def test_a_gradient_that_is_no_number_is_not_hidden_by_fixed_point(form: str) -> None:
    problem = fused(padded=False)
    problem.grad[0, 0, 0] = float("inf")
    if form == "fused":
        by_value = run(problem, deterministic=True)[1][0]
    else:
        value = problem.value.requires_grad_()
        locations = torch.full((2, 5, 2, 3, 2, 2), 0.4, device=DEVICE)
        weights = torch.ones(2, 5, 2, 3, 2, device=DEVICE)
        output = deform_attention(value, ODD, locations, weights, deterministic=True)
        (by_value,) = torch.autograd.grad(output, value, problem.grad)
    assert by_value.isnan().all()


def test_zero_gradients_in_fixed_point() -> None:
    problem = fused()
    problem.grad.zero_()
    assert all(g.eq(0).all() for g in run(problem, deterministic=True)[1])


def test_large_weights_do_not_overflow_fixed_point() -> None:
    # Weights of any size are allowed where they are given: 1000 x 200 queries on one cell.
    value = torch.ones(1, 1, 1, 1, device=DEVICE, requires_grad=True)
    locations = torch.full((1, 200, 1, 1, 1, 2), 0.5, device=DEVICE)
    weights = torch.full((1, 200, 1, 1, 1), 1000.0, device=DEVICE)
    output = deform_attention(value, [(1, 1)], locations, weights, deterministic=True)
    (by_value,) = torch.autograd.grad(output.sum(), value)
    assert by_value.item() == 200_000.0


def test_native_sums_are_kept_in_16_bits() -> None:
    # 40 queries at one cell's centre with gradient 1 / 64, exact in every type: each sum is exact up to 2**11 units.
    value = torch.ones(1, 1, 1, 1, dtype=torch.float16, device=DEVICE, requires_grad=True)
    locations = torch.full((1, 4000, 1, 1, 1, 2), 0.5, device=DEVICE)
    weights = torch.ones(1, 4000, 1, 1, 1, device=DEVICE)

    def summed(accumulate: str) -> float:
        output = deform_attention(value, [(1, 1)], locations, weights, accumulate=accumulate)
        (by_value,) = torch.autograd.grad(output, value, torch.full_like(output, 1 / 64))
        return by_value.item()

    assert summed("float32") == 62.5
    # At 2048 units of 1 / 64 the next one is half of the last bit, and is rounded away.
    assert summed("native") == 32.0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("arguments", [{"padded": True, "width": 4}, {"padded": False, "width": 2}])
def test_operators_are_registered_as_torch_wants_them(arguments: dict[str, object]) -> None:
    problem = tiny(**arguments)
    inputs = [tensor.requires_grad_() for tensor in problem.inputs()]
    sides = [side for shape in TINY for side in shape]
    value, references, offsets, logits = inputs
    flags = (False, False)
    torch.library.opcheck(
        torch.ops.codetr_kernels.deform_attention_fused.default,
        (value, sides, None, references, offsets, logits, problem.padding, *flags),
    )
    locations = offsets.detach().clone().requires_grad_()
    weights = logits.detach().view(offsets.shape[:-1]).clone().requires_grad_()
    torch.library.opcheck(
        torch.ops.codetr_kernels.deform_attention.default, (value, sides, None, locations, weights, *flags)
    )
    shapes = torch.tensor(TINY, device=DEVICE)
    torch.library.opcheck(
        torch.ops.codetr_kernels.deform_attention.default, (value, [], shapes, locations, weights, *flags)
    )


class Layer(nn.Module):
    """Projections around the operator, as every model has them."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(8, 16)
        self.offsets = nn.Linear(8, 2 * 3 * 2 * 2)
        self.logits = nn.Linear(8, 2 * 3 * 2)

    def forward(self, tokens: Tensor, query: Tensor, references: Tensor) -> Tensor:
        value = self.value(tokens).unflatten(-1, (2, 8))
        offsets = self.offsets(query).unflatten(-1, (2, 3, 2, 2))
        logits = self.logits(query).unflatten(-1, (2, 6))
        return deform_attention_fused(value, ODD, references, offsets, logits)


def layer_inputs(queries: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    tokens, query = torch.randn(1, 30, 8, device=DEVICE), torch.randn(1, queries, 8, device=DEVICE)
    return tokens, query, torch.rand(1, queries, 3, 2, device=DEVICE)


def test_compiled_without_a_break() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    wanted = layer(*inputs)
    wanted_grads = torch.autograd.grad(wanted.square().sum(), list(layer.parameters()))
    backend = "inductor" if DEVICE == "cuda" else "aot_eager"
    compiled = torch.compile(layer, fullgraph=True, backend=backend)
    found = compiled(*inputs)
    torch.testing.assert_close(found, wanted)
    found_grads = torch.autograd.grad(found.square().sum(), list(layer.parameters()))
    for a, b in zip(found_grads, wanted_grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_exported_with_any_number_of_queries() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    queries = torch.export.Dim("queries", min=2, max=64)
    exported = torch.export.export(layer, inputs, dynamic_shapes=(None, {1: queries}, {1: queries}))
    assert [n.target for n in exported.graph.nodes if "codetr_kernels" in str(n.target)]
    others = layer_inputs(9)
    torch.testing.assert_close(exported.module()(*others), layer(*others))


def test_under_autocast() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    exact = layer(*inputs)
    with torch.autocast(DEVICE, torch.bfloat16):
        found = layer(*inputs)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in layer.parameters())
    # Projections of 8 terms, rounded to 2**-8; offsets of up to 3 cells on slopes of up to 4.
    torch.testing.assert_close(found.float(), exact, rtol=0, atol=2**-8 * 3 * 4)


def test_activation_checkpointing() -> None:
    layer, inputs = Layer().to(DEVICE), layer_inputs()
    wanted = torch.autograd.grad(layer(*inputs).square().sum(), list(layer.parameters()))
    again = torch.utils.checkpoint.checkpoint(layer, *inputs, use_reentrant=False)
    found = torch.autograd.grad(again.square().sum(), list(layer.parameters()))
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b)


def test_sizes_beyond_the_kernels_run_the_reference_with_a_warning() -> None:
    problem = fused(((1, 1),) * 7, batch=1, heads=1)
    with pytest.warns(RuntimeWarning, match="they take 1 to 6 levels, not 7"):
        output, _ = run(problem)
    torch.testing.assert_close(output.double(), expected(problem)[0], rtol=0, atol=1e-5)


@pytest.mark.gpu
def test_captured_in_a_cuda_graph() -> None:
    problem = fused()
    value, references, offsets, logits = problem.inputs()
    run_once = lambda: deform_attention_fused(value, ODD, references, offsets, logits, problem.padding)  # noqa: E731
    wanted = run_once()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        output = run_once()
    value.mul_(2)
    graph.replay()
    torch.testing.assert_close(output, 2 * wanted)


@pytest.mark.gpu
def test_nothing_waits_for_the_device() -> None:
    problem = fused()
    run(problem)
    torch.cuda.set_sync_debug_mode("error")
    try:
        run(problem)
        run(problem, deterministic=True)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_on_a_device_that_is_not_the_current_one() -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    problem = fused()
    inputs = [tensor.to("cuda:1") for tensor in problem.inputs()]
    padding = None if problem.padding is None else problem.padding.to("cuda:1")
    output = deform_attention_fused(inputs[0], ODD, *inputs[1:], padding)
    assert output.device == torch.device("cuda:1")
    torch.testing.assert_close(output.cpu(), run(problem)[0].cpu())
