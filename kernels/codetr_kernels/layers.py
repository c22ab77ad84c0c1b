"""The kernels under the layer name and signature of the `transformers` library, which is not needed here."""

from __future__ import annotations

import inspect

from torch import Tensor, nn

from codetr_kernels.deform_attention import deform_attention
from codetr_kernels.deform_attention.level_starts import check_level_starts

LAYER = "MultiScaleDeformableAttention"
"""The name of the layer in `transformers` and in the mapping of the `kernels` library."""


class MultiScaleDeformableAttention(nn.Module):
    """`codetr_kernels.deform_attention` in place of the layer of that name in `transformers`.

    Without parameters, constructor or other members, as the `kernels` library asks of a layer that it lends to a model.
    """

    has_backward = True
    can_torch_compile = True

    def forward(
        self,
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_spatial_shapes_list: list[tuple],
        level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int,
    ) -> Tensor:
        """(B, Q, H * D), in the dtype of `value`; sampled and summed in float32 whatever the inputs are.

        value: (B, S, H, D). value_spatial_shapes: int (L, 2), height then width, read only where the list is None.
        value_spatial_shapes_list: the same numbers on the host. level_start_index: int (L,), the first token of each
        level, compared with the shapes where both are on the host. sampling_locations: (B, Q, H, L, P, 2), x then y,
        in units of each level. attention_weights: (B, Q, H, L, P). im2col_step: without effect; any batch size will do.

        Raises: ValueError as `deform_attention`, and for a level_start_index that does not fit the shapes.
        """
        shapes = value_spatial_shapes if value_spatial_shapes_list is None else value_spatial_shapes_list
        check_level_starts(level_start_index, shapes)
        # Theirs is contiguous, and a model may take a view of it.
        return deform_attention(value, shapes, sampling_locations, attention_weights).contiguous()


class LayerRepository:
    """The layer as an entry of a mapping of the `kernels` library, which loads it from this package."""

    layer_name = LAYER

    def load(self) -> type[nn.Module]:
        """The class whose `forward` a model is to borrow."""
        return MultiScaleDeformableAttention

    def __eq__(self, other: object) -> bool:
        return isinstance(other, LayerRepository)

    def __hash__(self) -> int:
        return hash(LayerRepository)

    def __str__(self) -> str:
        return f"`codetr_kernels`, layer `{self.layer_name}`"


def use_in(model: nn.Module) -> int:
    """Replace every layer `MultiScaleDeformableAttention` of `model`, in place; how many were replaced.

    Meant for models of `transformers`. The layers have no weights, so checkpoints stay as they are. Hooks registered on
    the replaced layers themselves are not carried over. A second call replaces nothing and returns 0.

    Raises: ValueError if there is no such layer, or one of that name that is called with other arguments.
    """
    found = [(path, layer) for path, layer in model.named_modules(remove_duplicate=False) if _is_named_so(layer)]
    if not found:
        raise ValueError(
            f"{type(model).__name__} has no layer called {LAYER}: deformable attention of another form must call "
            "codetr_kernels.deform_attention itself"
        )
    for path, layer in found:
        _check_layer(path, layer)
    new: dict[nn.Module, nn.Module] = {}
    for path, layer in found:
        if not isinstance(layer, MultiScaleDeformableAttention):
            # One layer at several paths stays one layer.
            replacement = new.setdefault(layer, MultiScaleDeformableAttention().train(layer.training))
            model.set_submodule(path, replacement)
    return len(new)


def _is_named_so(layer: nn.Module) -> bool:
    return type(layer).__name__ == LAYER


def _check_layer(path: str, layer: nn.Module) -> None:
    needed = list(inspect.signature(MultiScaleDeformableAttention.forward).parameters)
    arguments = list(inspect.signature(type(layer).forward).parameters)
    if arguments != needed:
        raise ValueError(
            f"layer {path!r} is a {type(layer).__module__}.{LAYER}, called with ({', '.join(arguments[1:])}), "
            f"not with ({', '.join(needed[1:])}); for mmcv's see codetr_kernels.mmcv"
        )
    if not path:
        raise ValueError(f"the model is itself a {LAYER}: put codetr_kernels.layers.{LAYER}() in its place")
    if any(True for _ in layer.parameters()) or any(True for _ in layer.buffers()):
        raise ValueError(f"layer {path!r} of {type(layer).__module__} has weights, which the replacement would lose")
