"""A step of collaborative training asks the device nothing.

Without a GPU a step runs on fake tensors, which have shapes and a device but no numbers: whatever needs a number fails,
and so does what moves a tensor between host and device. The operators of `codetr_kernels` and `torchvision` count as
what they declare; their kernels' own launches are held to it by the tests of a GPU, here and in `tests/kernels`.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from small import CONDITIONAL_DETR, DETR, HEADS, ONE_STAGE, OTHER_HEADS, PLUS_PLUS, batch, small_model
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensorMode,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from codetr.engine.config import TrainConfig
from codetr.engine.optim import build_optimizer, clip_gradients
from codetr.losses.set_loss import SetCriterion
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch, Targets, to_device

BASES = {"one-stage": ONE_STAGE, "plus-plus": PLUS_PLUS, "detr": DETR, "conditional": CONDITIONAL_DETR}


class HostAccess(Exception):
    """A tensor of host values, or a copy between host and device."""


ASKED = (HostAccess, DataDependentOutputException, DynamicOutputShapeException)
"""How a step fails that reads a number, moves a tensor, or has a shape that depends on numbers."""


class NoHost(TorchDispatchMode):
    """Refuses operators whose tensors are on several devices, and tensors made from host values."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.lift_fresh.default:
            raise HostAccess("a tensor is made from host values")
        found = func(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, found)) if isinstance(leaf, Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        if len(devices) > 1:
            raise HostAccess(f"{func} has tensors on {' and '.join(sorted(devices))}")
        self.operators.add(str(func))
        return found


class Fakes:
    """Tensors without numbers in place of real ones, on a device that need not be there. To be made in the mode."""

    def __init__(self, device: str) -> None:
        self.device = device
        self._made: dict[int, tuple[Tensor, Tensor]] = {}

    def tensor(self, real: Tensor) -> Tensor:
        """The same one for the same tensor."""
        if id(real) not in self._made:
            fake = torch.empty_strided(real.shape, real.stride(), dtype=real.dtype, device=self.device)
            if isinstance(real, nn.Parameter):
                fake = nn.Parameter(fake, requires_grad=real.requires_grad)
            self._made[id(real)] = real, fake
        return self._made[id(real)][1]

    def model(self, real: nn.Module) -> None:
        """Every parameter and buffer, in place."""
        for module in real.modules():
            for tensors in (module._parameters, module._buffers):
                for name, tensor in tensors.items():
                    if tensor is not None:
                        tensors[name] = self.tensor(tensor)

    def door(self, real: Any) -> Any:
        fields = {field.name: getattr(real, field.name) for field in dataclasses.fields(real)}
        return dataclasses.replace(real, **{k: self.tensor(v) for k, v in fields.items() if isinstance(v, Tensor)})


def fake_step(
    base: dict[str, Any] = PLUS_PLUS,
    heads: str = "both",
    *,
    device: str = "cuda",
    backward: bool = False,
    **collaborative: Any,
) -> tuple[dict[str, Tensor], set[str], Collaborative]:
    """Losses, names of the operators that ran, and the model."""
    model = small_model(base, {**HEADS, **OTHER_HEADS}[heads], **collaborative).train()
    images, targets = batch(masks=heads == "mask_rcnn")
    fakes, watch = Fakes(device), NoHost()
    with FakeTensorMode():
        fakes.model(model)
        given = fakes.door(images), fakes.door(targets)
        with watch:
            losses = model(*given)
            if backward:
                torch.stack(list(losses.values())).sum().backward()
    return losses, watch.operators, model


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators run as on a GPU with kernels: of fake tensors they are what they declare to return."""
    monkeypatch.setattr("codetr_kernels.backend._chosen", lambda *device: True)


OPERATORS = ("batched_nms", "matching_cost", "linear_assignment")


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("fill", ["mask", "negatives"])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_the_losses_are_made_on_the_device(base: dict[str, Any], fill: str) -> None:
    losses, operators, model = fake_step(base, fill=fill)
    for name in OPERATORS:
        assert f"codetr_kernels.{name}.default" in operators
    dense = base in (DETR, CONDITIONAL_DETR)
    assert ("codetr_kernels.deform_attention_fused.default" in operators) is not dense
    assert {"match.0.cls", "pos.atss.1.giou", "pos.faster_rcnn.0.l1", "atss.box", "faster_rcnn.rpn_cls"} < set(losses)
    for loss in losses.values():
        assert loss.shape == () and loss.device.type == "cuda" and loss.requires_grad
    assert model.training


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("head", OTHER_HEADS)
def test_the_losses_of_every_head_are_made_on_the_device(head: str) -> None:
    for fill in ("mask", "negatives"):
        losses, operators, _ = fake_step(heads=head, fill=fill)
        assert {f"pos.{head}.1.giou", f"{head}.cls", f"{head}.box"} < set(losses)
        assert all(loss.shape == () and loss.device.type == "cuda" for loss in losses.values())
        assert "codetr_kernels.box_loss.default" in operators


@pytest.mark.usefixtures("kernels")
def test_the_losses_of_masks_are_made_on_the_device() -> None:
    losses, operators, _ = fake_step(heads="mask_rcnn")
    assert {"mask_rcnn.rpn_cls", "mask_rcnn.box", "mask_rcnn.mask", "pos.mask_rcnn.0.l1"} < set(losses)
    assert losses["mask_rcnn.mask"].device.type == "cuda" and losses["mask_rcnn.mask"].requires_grad
    assert "torchvision.roi_align.default" in operators
    fake_step(heads="mask_rcnn", device="cuda" if torch.cuda.is_available() else "cpu", backward=True)


def test_the_losses_are_made_on_a_device_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the operators that then run on the host: suppression and assignment."""
    monkeypatch.setattr("codetr_kernels.backend._chosen", lambda *device: False)
    losses, operators, _ = fake_step()
    assert all(loss.device.type == "cuda" for loss in losses.values())
    assert "codetr_kernels.deform_attention_fused.default" not in operators


@pytest.mark.usefixtures("kernels")
def test_the_gradients_are_made_on_the_device() -> None:
    """Autograd needs a device that is there: without a GPU this sees what depends on numbers, and no copies."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    _, operators, model = fake_step(device=device, backward=True)
    assert "codetr_kernels.deform_attention_fused_backward.default" in operators
    missing = [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert missing == []


FAULTS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.tolist(),
    "float": lambda x: float(x.sum()),
    "a branch": lambda x: 1 if x.sum() > 0 else 2,
    "equal": lambda x: torch.equal(x, x + 1),
    "cpu": lambda x: x.cpu(),
    "to the host": lambda x: x.to("cpu", non_blocking=True),
    "from the host": lambda x: x + torch.zeros(3).to(x.device).sum(),
    "a tensor of host values": lambda x: torch.tensor([1.0, 2.0], device=x.device),
    "new_tensor": lambda x: x.new_tensor([1.0, 2.0]),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "a boolean index": lambda x: x[x > 0],
    "masked_select": lambda x: x.masked_select(x > 0),
    "unique": lambda x: x.unique(),
    "repeats on the device": lambda x: torch.arange(3, device=x.device).repeat_interleave(x.flatten()[:3].long()),
    "bincount": lambda x: x.flatten().long().bincount(),
    "a slice up to a count": lambda x: x.flatten()[: x.argmax()],
}


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("fault", FAULTS)
def test_a_step_that_asks_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the middle of the step: in the loss of a group, of its logits."""
    losses = SetCriterion.group
    asked: list[str] = []

    def group(self: SetCriterion, queries: Any, output: Any, *rest: Any) -> dict[str, Tensor]:
        asked.append(queries.name)
        FAULTS[fault](output.logits.detach())
        return losses(self, queries, output, *rest)

    monkeypatch.setattr(SetCriterion, "group", group)
    with pytest.raises(ASKED):
        fake_step(ONE_STAGE, "none")
    assert asked == ["match"]


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("fault", ["item", "a branch", "nonzero", "a boolean index", "unique"])
def test_a_backward_pass_that_asks_is_caught(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = SetCriterion.group
    asked: list[str] = []

    def ask(gradient: Tensor) -> None:
        asked.append(fault)
        FAULTS[fault](gradient)

    def group(self: SetCriterion, queries: Any, output: Any, *rest: Any) -> dict[str, Tensor]:
        output.logits.register_hook(ask)
        return losses(self, queries, output, *rest)

    monkeypatch.setattr(SetCriterion, "group", group)
    with pytest.raises(ASKED):
        fake_step(ONE_STAGE, "none", device="cpu", backward=True)
    assert asked == [fault]


def on_gpu(base: dict[str, Any] = PLUS_PLUS) -> tuple[Collaborative, ImageBatch, Targets]:
    model, (images, targets) = small_model(base, HEADS["both"]).train(), batch()
    return model.cuda(), to_device(images, "cuda"), to_device(targets, "cuda")


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()]).sum()


@pytest.mark.gpu
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_training_step_never_waits_for_the_gpu(base: dict[str, Any], precision: torch.dtype) -> None:
    """Forward, backward and optimizer as the trainer calls them. The first step compiles kernels and may wait."""
    model, images, targets = on_gpu(base)
    optimizer = build_optimizer(model, TrainConfig(), device=torch.device("cuda"))

    def step() -> dict[str, Tensor]:
        with torch.autocast("cuda", torch.bfloat16, enabled=precision == torch.bfloat16):
            losses = model(images, targets)
        total(losses).backward()
        clip_gradients(model.parameters(), 0.1)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return losses

    step()
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [step(), step()]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert all(total(losses).isfinite() for losses in found)


@pytest.mark.gpu
def test_the_debug_mode_of_synchronisation_is_on() -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        with pytest.raises(RuntimeError, match="synchroniz"):
            torch.ones(1, device="cuda").item()
    finally:
        torch.cuda.set_sync_debug_mode("default")


class GraphedStep:
    """A training step: eager, or captured once and replayed, on one model and one optimizer."""

    def __init__(self, model: Collaborative, images: ImageBatch, targets: Targets) -> None:
        self.model, self.images, self.targets = model, images, targets
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True, capturable=True)

    def eager(self, seed: int) -> dict[str, float]:
        torch.manual_seed(seed)
        return numbers(self._run())

    def capture(self) -> Callable[[int], dict[str, float]]:
        """Replays of the step from the state of now; warmed up and captured beforehand, which it does not remember."""
        weights = copy.deepcopy(self.model.state_dict())
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        self.optimizer.zero_grad(set_to_none=True)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            losses = self._run()
        self.model.load_state_dict(weights)  # In place: the graph knows the addresses.
        for state in self.optimizer.state.values():
            for tensor in state.values():
                tensor.zero_()

        def replay(seed: int) -> dict[str, float]:
            torch.manual_seed(seed)
            graph.replay()
            return numbers(losses)

        return replay

    def _run(self) -> dict[str, Tensor]:
        self.optimizer.zero_grad(set_to_none=True)
        losses = self.model(self.images, self.targets)
        total(losses).backward()
        self.optimizer.step()
        return {name: loss.detach() for name, loss in losses.items()}


def numbers(losses: dict[str, Tensor]) -> dict[str, float]:
    return {name: loss.item() for name, loss in losses.items()}


@pytest.mark.gpu
@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_training_step_is_captured_in_a_cuda_graph(base: dict[str, Any]) -> None:
    """The random numbers are those of torch's generator, whose seed a replay reads."""
    wanted = GraphedStep(*on_gpu(base))
    replay = GraphedStep(*on_gpu(base)).capture()
    first = wanted.eager(seed=3)
    # The same kernels on the same numbers; libraries may choose another algorithm: float32 sums in another order.
    assert replay(3) == pytest.approx(first, rel=1e-4, abs=1e-5)
    second = wanted.eager(seed=4)
    # After one step of the optimizer, whose gradients are summed in any order.
    assert replay(4) == pytest.approx(second, rel=1e-2, abs=1e-3)
    assert second != first


@pytest.mark.gpu
def test_a_replay_reads_its_inputs_anew() -> None:
    """Images, objects and how many there are: in place of those that were captured."""
    model, images, targets = on_gpu()
    step = GraphedStep(model, images, targets)
    eager = GraphedStep(copy.deepcopy(model), images, targets)
    replay = step.capture()
    images.pixels.mul_(0.5)
    targets.valid[0, 1:] = False
    targets.boxes.masked_fill_(~targets.valid[..., None], 0.0)
    targets.labels.masked_fill_(~targets.valid, 0)
    assert replay(3) == pytest.approx(eager.eager(seed=3), rel=1e-4, abs=1e-5)
