"""A step of collaborative training on a GPU waits for nothing, and is captured in a graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from every_base import tiny_model
from head_matrix import forms
from small import CONDITIONAL_DETR, DETR, HEADS, NUM_CLASSES, ONE_STAGE, PLUS_PLUS, batch, small_model
from torch import Tensor

from codetr.engine.config import TrainConfig
from codetr.engine.optim import build_optimizer, clip_gradients
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch, Targets, to_device

pytestmark = pytest.mark.gpu
BASES = {"one-stage": ONE_STAGE, "plus-plus": PLUS_PLUS, "detr": DETR, "conditional": CONDITIONAL_DETR}


def on_gpu(model: Collaborative) -> tuple[Collaborative, ImageBatch, Targets]:
    images, targets = batch()
    return model.train().cuda(), to_device(images, "cuda"), to_device(targets, "cuda")


def with_both_heads(base: dict[str, Any] = PLUS_PLUS) -> Collaborative:
    return small_model(base, HEADS["both"])


def total(losses: dict[str, Tensor]) -> Tensor:
    return torch.stack([loss.float() for loss in losses.values()]).sum()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("base", forms())
def test_a_training_step_never_waits_for_the_gpu(base: str, precision: torch.dtype) -> None:
    """Forward, backward and optimizer as the trainer calls them. The first step compiles kernels and may wait."""
    model, images, targets = on_gpu(tiny_model(base, NUM_CLASSES, heads=True))
    targets = replace(targets, seeds=torch.arange(len(targets.counts), device="cuda"))
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


@pytest.mark.parametrize("base", BASES.values(), ids=BASES)
def test_a_training_step_is_captured_in_a_cuda_graph(base: dict[str, Any]) -> None:
    """The random numbers are those of torch's generator, whose seed a replay reads."""
    wanted = GraphedStep(*on_gpu(with_both_heads(base)))
    replay = GraphedStep(*on_gpu(with_both_heads(base))).capture()
    first = wanted.eager(seed=3)
    # The same kernels on the same numbers; libraries may choose another algorithm: float32 sums in another order.
    assert replay(3) == pytest.approx(first, rel=1e-4, abs=1e-5)
    second = wanted.eager(seed=4)
    # After one step of the optimizer, whose gradients are summed in any order.
    assert replay(4) == pytest.approx(second, rel=1e-2, abs=1e-3)
    assert second != first


def test_a_replay_reads_its_inputs_anew() -> None:
    """Images, objects and how many there are: in place of those that were captured."""
    model, images, targets = on_gpu(with_both_heads())
    step = GraphedStep(model, images, targets)
    eager = GraphedStep(copy.deepcopy(model), images, targets)
    replay = step.capture()
    images.pixels.mul_(0.5)
    targets.valid[0, 1:] = False
    targets.boxes.masked_fill_(~targets.valid[..., None], 0.0)
    targets.labels.masked_fill_(~targets.valid, 0)
    assert replay(3) == pytest.approx(eager.eager(seed=3), rel=1e-4, abs=1e-5)
