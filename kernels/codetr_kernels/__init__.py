"""Kernels for object detection, each beside a plain PyTorch reference. Of use without codetr."""

from codetr_kernels.assigners import atss_assign, fcos_assign, max_iou_assign, paa_assign
from codetr_kernels.backend import Backend, which_backend
from codetr_kernels.boxes import ciou_loss, diou_loss, giou_loss, iou_loss, pairwise_giou, pairwise_iou
from codetr_kernels.deform_attention import (
    deform_attention,
    deform_attention_fused,
    deform_attention_fused_reference,
    deform_attention_reference,
)
from codetr_kernels.linear_assignment import linear_assignment
from codetr_kernels.losses import distribution_focal_loss, quality_focal_loss, sigmoid_focal_loss_rows
from codetr_kernels.matching_cost import matching_cost, matching_cost_reference
from codetr_kernels.nms import batched_nms, batched_nms_reference, soft_nms, soft_nms_reference

__all__ = [
    "Backend",
    "atss_assign",
    "batched_nms",
    "batched_nms_reference",
    "ciou_loss",
    "deform_attention",
    "deform_attention_fused",
    "deform_attention_fused_reference",
    "deform_attention_reference",
    "diou_loss",
    "distribution_focal_loss",
    "fcos_assign",
    "giou_loss",
    "iou_loss",
    "linear_assignment",
    "matching_cost",
    "matching_cost_reference",
    "max_iou_assign",
    "paa_assign",
    "pairwise_giou",
    "pairwise_iou",
    "quality_focal_loss",
    "sigmoid_focal_loss_rows",
    "soft_nms",
    "soft_nms_reference",
    "which_backend",
]
