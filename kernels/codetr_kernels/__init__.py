"""Kernels for object detection, each beside a plain PyTorch reference. Of use without codetr."""

from codetr_kernels.backend import Backend, which_backend
from codetr_kernels.deform_attention import (
    deform_attention,
    deform_attention_fused,
    deform_attention_fused_reference,
    deform_attention_reference,
)

__all__ = [
    "Backend",
    "deform_attention",
    "deform_attention_fused",
    "deform_attention_fused_reference",
    "deform_attention_reference",
    "which_backend",
]
