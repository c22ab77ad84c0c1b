"""The layer of `transformers`: literal values, its own classes, and whole models before and after the swap."""

from __future__ import annotations

import copy
import importlib
import inspect
from pathlib import Path
from types import MethodType
from typing import Any, get_type_hints

import pytest
import torch
from codetr_kernels.layers import LAYER, LayerRepository, MultiScaleDeformableAttention, use_in
from torch import Tensor, nn

transformers = pytest.importorskip("transformers")

SHAPES = [(2, 2), (1, 1)]
STARTS = torch.tensor([0, 4])
FAMILIES = sorted(
    path.parent.name
    for path in (Path(transformers.__file__).parent / "models").glob("*/modeling_*.py")
    if f"class {LAYER}(" in path.read_text(encoding="utf-8")
)


def theirs(family: str) -> type[nn.Module]:
    module = importlib.import_module(f"transformers.models.{family}.modeling_{family}")
    return getattr(module, LAYER)


def literal() -> dict[str, Any]:
    """A level [[1, 2], [3, 4]] read between all four, and a level [[10]] read at its corner; weights 1 and 2."""
    return {
        "value": torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]).view(1, 5, 1, 1),
        "value_spatial_shapes": torch.tensor(SHAPES),
        "value_spatial_shapes_list": SHAPES,
        "level_start_index": STARTS,
        "sampling_locations": torch.tensor([[0.5, 0.5], [0.0, 1.0]]).view(1, 1, 1, 2, 1, 2),
        "attention_weights": torch.tensor([1.0, 2.0]).view(1, 1, 1, 2, 1),
        "im2col_step": 64,
    }


def problem(*, requires_grad: bool = True) -> list[Any]:
    """In float64 and by position: B = 2, H = 3, D = 5, Q = 4, L = 2, P = 3, many samples outside; three images a step
    of im2col would not divide the batch."""
    shapes = [(3, 5), (2, 7)]
    value = torch.randn(2, 29, 3, 5, dtype=torch.float64, requires_grad=requires_grad)
    locations = (torch.rand(2, 4, 3, 2, 3, 2, dtype=torch.float64) * 1.6 - 0.3).requires_grad_(requires_grad)
    weights = torch.randn(2, 4, 3, 2, 3, dtype=torch.float64, requires_grad=requires_grad)
    return [value, torch.tensor(shapes), shapes, torch.tensor([0, 15]), locations, weights, 3]


def gradients(layer: nn.Module, arguments: list[Any]) -> tuple[Tensor, ...]:
    output = layer(*arguments)
    return output, *torch.autograd.grad(output.sin().sum(), [arguments[index] for index in (0, 4, 5)])


def test_literal_values() -> None:
    # 2.5 of the first level and twice a quarter of 10, exact in float32.
    assert MultiScaleDeformableAttention()(**literal()).tolist() == [[[7.5]]]


def test_shapes_on_the_host_leave_the_tensors_unread() -> None:
    # A meta tensor has no numbers: reading them would raise.
    unread = {"value_spatial_shapes": torch.empty(2, 2, device="meta", dtype=torch.int64)}
    unread["level_start_index"] = torch.empty(2, device="meta", dtype=torch.int64)
    assert MultiScaleDeformableAttention()(**{**literal(), **unread}).tolist() == [[[7.5]]]


def test_without_shapes_on_the_host_the_tensor_is_read() -> None:
    assert MultiScaleDeformableAttention()(**{**literal(), "value_spatial_shapes_list": None}).tolist() == [[[7.5]]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"level_start_index": torch.tensor([0, 3])},
            r"must be \[0, 4\] for levels of \[\(2, 2\), \(1, 1\)\], got \[0,",
        ),
        (
            {"level_start_index": torch.tensor([4, 0]), "value_spatial_shapes_list": None},
            r"must be \[0, 4\] .* \[4, 0\]",
        ),
        ({"level_start_index": torch.tensor([0])}, r"must be \(2,\), one a level, got \(1,\)"),
        ({"level_start_index": torch.empty(3, device="meta")}, r"must be \(2,\), one a level, got \(3,\)"),
        ({"value_spatial_shapes_list": [(1, 4), (1, 2)]}, "cover 6 tokens, value has 5"),
        ({"attention_weights": torch.ones(1, 1, 1, 1, 2)}, r"weights must be \(1, 1, 1, 2, 1\) as locations"),
    ],
)
def test_what_does_not_fit_is_an_error(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MultiScaleDeformableAttention()(**{**literal(), **changes})


def test_the_families_are_found() -> None:
    assert {"deformable_detr", "grounding_dino", "rt_detr"} <= set(FAMILIES)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_signature_is_theirs(family: str) -> None:
    own, other = MultiScaleDeformableAttention.forward, theirs(family).forward
    own_parameters, other_parameters = (inspect.signature(function).parameters.values() for function in (own, other))
    assert [(p.name, p.kind, p.default) for p in own_parameters] == [
        (p.name, p.kind, p.default) for p in other_parameters
    ]
    assert get_type_hints(own) == {**get_type_hints(other), "return": Tensor}


@pytest.mark.parametrize("family", FAMILIES)
def test_values_and_gradients_are_theirs(family: str) -> None:
    arguments = problem()
    ours, expected = (gradients(layer(), arguments) for layer in (MultiScaleDeformableAttention, theirs(family)))
    assert ours[0].is_contiguous() and expected[0].is_contiguous()
    for own, other in zip(ours, expected, strict=True):
        # Float64 sums of at most 4 x 3 x 2 x 3 terms below 100 in another order.
        torch.testing.assert_close(own, other, atol=1e-12, rtol=0)


def test_a_model_may_borrow_the_forward() -> None:
    """What the `kernels` library does: no constructor, no members of its own, `forward` bound to the model's layer."""
    layer = LayerRepository().load()
    assert layer.__init__ is nn.Module.__init__
    members = {name for name, _ in inspect.getmembers(layer)} - {name for name, _ in inspect.getmembers(nn.Module)}
    assert members == {"can_torch_compile", "has_backward"}
    borrower = theirs("deformable_detr")()
    borrower.forward = MethodType(layer.forward, borrower)
    assert borrower(**literal()).tolist() == [[[7.5]]]


def test_the_repository_is_a_key() -> None:
    assert LayerRepository() == LayerRepository() and hash(LayerRepository()) == hash(LayerRepository())
    assert LayerRepository() != LAYER
    assert LayerRepository().layer_name == theirs("deformable_detr").__name__
    assert str(LayerRepository()) == "`codetr_kernels`, layer `MultiScaleDeformableAttention`"


def deformable_detr(**settings: Any) -> tuple[nn.Module, int]:
    """Two encoder and three decoder layers, and how many layers there are to replace."""
    backbone = transformers.TimmBackboneConfig(
        backbone="resnet18", out_indices=(2, 3, 4), features_only=True, use_pretrained_backbone=False
    )
    sizes = {f"{part}_{name}": 4 for part in ("encoder", "decoder") for name in ("attention_heads", "n_points")}
    config = transformers.DeformableDetrConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=3,
        encoder_ffn_dim=16,
        decoder_ffn_dim=16,
        num_queries=7,
        two_stage_num_proposals=7,
        backbone_config=backbone,
        **sizes,
        **settings,
    )
    return irregular(transformers.DeformableDetrForObjectDetection(config)), 5


def rt_detr() -> tuple[nn.Module, int]:
    """Two decoder layers; the encoder of this family has none."""
    backbone = transformers.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], out_features=["stage2", "stage3", "stage4"]
    )
    config = transformers.RTDetrConfig(
        backbone_config=backbone,
        encoder_in_channels=[8, 8, 8],
        encoder_hidden_dim=32,
        encoder_ffn_dim=16,
        encoder_attention_heads=4,
        d_model=32,
        decoder_in_channels=[32, 32, 32],
        decoder_ffn_dim=16,
        decoder_layers=2,
        decoder_attention_heads=4,
        num_queries=7,
        num_denoising=0,
        disable_custom_kernels=True,
    )
    return irregular(transformers.RTDetrModel(config)), 2


def irregular(model: nn.Module) -> nn.Module:
    """The initial offsets are too regular to tell a wrong order from a right one. Without dropout."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return model.eval().double()


def everything(model: nn.Module) -> dict[str, Tensor]:
    """The last hidden state on two images, and every gradient."""
    images = torch.randn(2, 3, 96, 128, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    output = model(pixel_values=images).last_hidden_state
    output.sin().sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"": output.detach(), **found}


@pytest.mark.parametrize(
    "build",
    [deformable_detr, lambda: deformable_detr(with_box_refine=True, two_stage=True), rt_detr],
    ids=["deformable-detr", "two-stage", "rt-detr"],
)
def test_a_model_computes_what_it_did(build: Any) -> None:
    model, layers = build()
    before, names = everything(copy.deepcopy(model)), list(model.state_dict())
    assert use_in(model) == layers
    after = everything(model)
    assert list(model.state_dict()) == names
    assert before.keys() == after.keys() and any("sampling_offsets" in name for name in after)
    largest = max(expected.abs().max().item() for expected in before.values())
    for name, expected in before.items():
        # Float64 in another order, through five layers and a backbone; some gradients are zero but for rounding.
        torch.testing.assert_close(after[name], expected, atol=1e-12 * largest, rtol=1e-10, msg=name)
    assert sum(isinstance(layer, MultiScaleDeformableAttention) for layer in model.modules()) == layers


class Holder(nn.Module):
    def __init__(self, **layers: nn.Module) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)


def test_every_path_is_replaced_once() -> None:
    shared = theirs("deformable_detr")().eval()
    model = Holder(first=shared, inner=Holder(second=shared), third=theirs("rt_detr")())
    assert use_in(model) == 2
    assert type(model.first) is type(model.third) is MultiScaleDeformableAttention
    assert model.first is model.inner.second and model.first is not model.third
    assert not model.first.training and model.third.training
    first = model.first
    assert use_in(model) == 0
    assert model.first is first


def namesake(forward: Any, layer: nn.Module | None = None) -> nn.Module:
    """A layer of the same class name from elsewhere."""
    made = type(LAYER, (nn.Module,), {"forward": forward})()
    if layer is not None:
        made.add_module("projection", layer)
    return made


def other_arguments(self: nn.Module, query: Tensor, value: Tensor) -> Tensor:
    return query + value


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            Holder(),
            "Holder has no layer called MultiScaleDeformableAttention: .* codetr_kernels.deform_attention itself",
        ),
        (
            Holder(a=namesake(other_arguments)),
            r"layer 'a' is a .*, called with \(query, value\), .*codetr_kernels.mmcv",
        ),
        (
            Holder(a=namesake(MultiScaleDeformableAttention.forward, nn.Linear(1, 1))),
            "layer 'a' of .* has weights, which the replacement would lose",
        ),
        (MultiScaleDeformableAttention(), "the model is itself a MultiScaleDeformableAttention: put"),
    ],
    ids=["none", "arguments", "weights", "itself"],
)
def test_what_cannot_be_replaced_is_an_error(model: nn.Module, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        use_in(model)


def test_an_error_replaces_nothing() -> None:
    good = theirs("deformable_detr")()
    model = Holder(good=good, other=namesake(other_arguments))
    with pytest.raises(ValueError, match="layer 'other'"):
        use_in(model)
    assert model.good is good
