"""The kernels under the names of mmcv, which is not needed here."""

from __future__ import annotations

from torch import Tensor

from codetr_kernels.deform_attention import deform_attention
from codetr_kernels.deform_attention.checks import Shapes
from codetr_kernels.deform_attention.level_starts import check_level_starts


class MultiScaleDeformableAttnFunction:
    """In place of the autograd function of that name in mmcv, and of `MSDeformAttnFunction` of Deformable DETR's code.

    Not itself a function of autograd: the gradients, the second ones too, are those of `deform_attention`.
    """

    @staticmethod
    def apply(
        value: Tensor,
        value_spatial_shapes: Tensor,
        value_level_start_index: Tensor,
        sampling_locations: Tensor,
        attention_weights: Tensor,
        im2col_step: int = 64,
    ) -> Tensor:
        """(B, Q, H * D), in the dtype of `value`; sampled and summed in float32 whatever the inputs are.

        value: (B, S, H, D). value_spatial_shapes: int (L, 2), height then width, read on the device that holds them.
        value_level_start_index: int (L,), the first token of each level, compared with the shapes where both are on the
        host. sampling_locations: (B, Q, H, L, P, 2), x then y, in units of each level. attention_weights:
        (B, Q, H, L, P). im2col_step: without effect; any batch size will do.

        Raises: ValueError as `deform_attention`, and for start indices that do not fit the shapes.
        """
        check_level_starts(value_level_start_index, value_spatial_shapes)
        # Theirs is contiguous, and a model may take a view of it.
        return deform_attention(value, value_spatial_shapes, sampling_locations, attention_weights).contiguous()


def multi_scale_deformable_attn_pytorch(
    value: Tensor, value_spatial_shapes: Shapes, sampling_locations: Tensor, attention_weights: Tensor
) -> Tensor:
    """In place of mmcv's function of that name; arguments and result as in `MultiScaleDeformableAttnFunction.apply`.

    On a GPU it runs the kernels all the same. The `multi_scale_deformable_attention` of Mask2Former and OneFormer in
    `transformers` takes the same arguments, with the shapes as a list.
    """
    return deform_attention(value, value_spatial_shapes, sampling_locations, attention_weights).contiguous()
