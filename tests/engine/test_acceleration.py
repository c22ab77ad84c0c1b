"""Recomputed modules give the same bits, and compiled parts one graph for all sizes."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend

from codetr.engine import acceleration
from codetr.engine.acceleration import accelerate
from codetr.engine.config import TrainConfig
from codetr.errors import UserError
from codetr.models.collaborative import Collaborative
from codetr.structures import ImageBatch, Targets, to_device

sys.path.append(str(Path(__file__).resolve().parents[1] / "models"))
from every_base import BASES, tiny_model, tiny_spec

NUM_CLASSES = 4


def batch(height: int, width: int, counts: tuple[int, int]) -> tuple[ImageBatch, Targets]:
    """Two images with so many objects; the second one fills three quarters of each side."""
    generator = torch.Generator().manual_seed(height + width)
    inner = height * 3 // 4, width * 3 // 4
    padding = torch.zeros(2, height, width, dtype=torch.bool)
    padding[1, inner[0] :] = True
    padding[1, :, inner[1] :] = True
    pixels = torch.randn(2, 3, height, width, generator=generator).masked_fill(padding[:, None], 0.0)
    most = max(1, *counts)
    corner = torch.rand(2, most, 2, generator=generator) * 30
    side = 8 + torch.rand(2, most, 2, generator=generator) * 16
    labels = torch.randint(0, NUM_CLASSES, (2, most), generator=generator)
    valid = torch.arange(most)[None] < torch.tensor(counts)[:, None]
    boxes = torch.cat([corner, corner + side], -1).masked_fill(~valid[..., None], 0.0)
    sizes = torch.tensor([(height, width), inner], dtype=torch.float32)
    return ImageBatch(pixels, padding, sizes), Targets(boxes, labels.masked_fill(~valid, 0), valid, counts)


def losses_and_gradients(model: nn.Module, given: tuple[ImageBatch, Targets]) -> dict[str, Tensor]:
    model.zero_grad()
    torch.manual_seed(3)
    losses = model(*given)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return {**{name: loss.detach() for name, loss in losses.items()}, **gradients}


def with_dropout(base: str) -> Collaborative:
    model = tiny_model(base, NUM_CLASSES, heads=True).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.1
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.1
    return model


class Calls:
    """How often modules of a kind run."""

    def __init__(self, model: nn.Module, names: str) -> None:
        self.count = 0
        for name, module in model.named_modules():
            if name.endswith(names):
                module.register_forward_pre_hook(self._called)  # it may end early when computed again

    def _called(self, *given: Any) -> None:
        self.count += 1


@pytest.mark.parametrize("base", BASES)
def test_recomputed_layers_give_the_same_bits(base: str) -> None:
    """With dropout, whose random numbers are drawn anew; in a copy too, whose gradients are its own."""
    model = with_dropout(base)
    plain, given = copy.deepcopy(model), batch(96, 128, (3, 1))
    accelerate(model, TrainConfig(recompute=("encoder.layers",)))
    assert list(model.state_dict()) == list(plain.state_dict())
    assert [name for name, _ in model.named_parameters()] == [name for name, _ in plain.named_parameters()]
    copied = copy.deepcopy(model)
    calls = Calls(model, "encoder.layers.0.ffn")
    expected = losses_and_gradients(plain, given)
    for accelerated in (model, copied):
        found = losses_and_gradients(accelerated, given)
        assert set(found) == set(expected)
        for name, value in expected.items():
            assert torch.equal(found[name], value), name
    assert calls.count == 2  # forward, and again in the backward pass; not those of the copy


def test_recomputing_takes_part_in_training_alone() -> None:
    model = with_dropout("detr")
    accelerate(model, TrainConfig(recompute=("encoder.layers",)))
    images, targets = batch(64, 64, (1, 1))
    calls = Calls(model, "encoder.layers.0.ffn")
    with torch.no_grad():
        model(images, targets)
    assert calls.count == 1
    losses_and_gradients(model.eval(), (images, targets))
    assert calls.count == 2


def recomputed(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


class Stage(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = Stage(), Stage()

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


@pytest.mark.parametrize(
    ("patterns", "names"),
    [
        ((), []),
        (("encoder.layers",), ["encoder.layers.0", "encoder.layers.1"]),
        (("encoder",), ["encoder"]),  # what lies within is part of it
        (("layers.1", "encoder"), ["encoder", "decoder.layers.1"]),
    ],
)
def test_the_outermost_modules_that_match(patterns: tuple[str, ...], names: list[str]) -> None:
    model = Parts()
    accelerate(model, TrainConfig(recompute=patterns))
    assert recomputed(model) == names
    model(torch.ones(1, 2, requires_grad=True)).sum().backward()


def test_a_pattern_without_a_module() -> None:
    message = r"train\.recompute\[1\]: no module of the model has 'encodr\.layers' in its name; .*'encoder\.layers'\?"
    with pytest.raises(UserError, match=message):
        accelerate(Parts(), TrainConfig(recompute=("decoder", "encodr.layers")))
    with pytest.raises(UserError, match=r"recompute\[0\].*use a part of a name such as"):
        accelerate(Parts(), TrainConfig(recompute=("zzz",)))


def test_a_model_without_parts_to_compile() -> None:
    with pytest.raises(UserError, match=r"train\.compile: the model has no backbone, encoder or decoder"):
        accelerate(nn.Sequential(nn.Linear(1, 1)), TrainConfig(compile=True))


class Counted:
    """Graphs that are made of each part, with a backend that needs no compiler."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.backend = "eager"
        self.graphs: dict[str, CompileCounterWithBackend] = {}
        compile_ = torch.compile

        def counted(forward: Any, *, options: dict[str, Any], **settings: Any) -> Any:
            assert settings["fullgraph"]
            counter = self.graphs.setdefault(forward.__qualname__, CompileCounterWithBackend(self.backend))
            return compile_(forward, backend=counter, **settings)

        monkeypatch.setattr(torch, "compile", counted)

    def numbers(self) -> dict[str, int]:
        return {name.split(".")[0]: counter.frame_count for name, counter in self.graphs.items()}


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counted]:
    torch._dynamo.reset()
    yield Counted(monkeypatch)
    torch._dynamo.reset()


NOT_A_LEAF = "ignore:The .grad attribute of a Tensor:UserWarning"  # the compiler looks at every input
WARM_UP = ((96, 128, (3, 1)), (128, 96, (2, 5)))
LATER = ((128, 128, (1, 1)), (64, 160, (8, 2)), (160, 96, (4, 4)))


def one_layer(base: str) -> dict[str, Any]:
    """Settings of a base whose decoder is soon compiled."""
    inner = tiny_spec(base, heads=False).base.settings.model_dump().get("inner")
    return {"decoder_layers": 1} if inner is None else {"inner": {**inner, "decoder_layers": 1}}


def compare(model: Collaborative, plain: Collaborative, given: tuple[ImageBatch, Targets]) -> None:
    found, expected = losses_and_gradients(model, given), losses_and_gradients(plain, given)
    assert set(found) == set(expected)
    for name, value in expected.items():
        # Sums of at most a few thousand float32 products in another order: 2e-7 * sqrt(4000) of the largest term, and
        # ten layers one after the other.
        limit = 1e-4 * float(value.abs().max()) + 1e-6
        assert float((found[name] - value).abs().max()) <= limit, name


@pytest.mark.filterwarnings(NOT_A_LEAF)
@pytest.mark.parametrize("base", ["dn_detr", "deformable_detr"])
def test_all_sizes_share_the_graphs_of_the_first_two(
    base: str, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sizes, shape of images, numbers of objects and of denoising queries: one graph. All bases: on a GPU, below."""
    monkeypatch.setattr(acceleration, "COMPILED", ("encoder", "decoder"))
    model = tiny_model(base, NUM_CLASSES, heads=False, **one_layer(base)).train()
    plain = copy.deepcopy(model)
    accelerate(model, TrainConfig(compile=True))
    for sizes in (*WARM_UP, *LATER):
        compare(model, plain, batch(*sizes))
    assert len(counted.graphs) == 2 and set(counted.numbers().values()) == {1}


@pytest.mark.filterwarnings(NOT_A_LEAF)
def test_the_backbone_and_recomputed_layers_are_compiled_with_their_gradients(
    counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted.backend = "aot_eager"
    monkeypatch.setattr(acceleration, "COMPILED", ("backbone", "encoder"))
    model = tiny_model("detr", NUM_CLASSES, heads=False, **one_layer("detr")).train()
    plain = copy.deepcopy(model)
    names = list(model.state_dict())
    accelerate(model, TrainConfig(compile=True, recompute=("encoder.layers",)))
    assert list(model.state_dict()) == names
    for sizes in WARM_UP:
        compare(model, plain, batch(*sizes))
    assert counted.numbers() == {"ResNet": 1, "DenseEncoder": 1}


def test_evaluation_is_not_compiled(counted: Counted) -> None:
    model = tiny_model("detr", NUM_CLASSES, heads=False).eval()
    accelerate(model, TrainConfig(compile=True))
    model.predict(batch(64, 64, (1, 1))[0])
    assert set(counted.numbers().values()) == {0}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("base", BASES)
def test_every_base_is_compiled_for_a_gpu(base: str) -> None:
    """By the compiler itself. Row-column attention has a graph for wide maps and one for others."""
    torch._dynamo.reset()
    model = tiny_model(base, NUM_CLASSES, heads=True).train().cuda()
    accelerate(model, TrainConfig(compile=True, recompute=("encoder.layers",)))

    def step(sizes: tuple[int, int, tuple[int, int]]) -> None:
        images, targets = batch(*sizes)
        found = losses_and_gradients(model, (to_device(images, "cuda"), to_device(targets, "cuda")))
        assert all(value.isfinite().all() for value in found.values())

    for sizes in WARM_UP:
        step(sizes)
    with torch._dynamo.config.patch(error_on_recompile=True):
        for sizes in LATER:
            step(sizes)
