"""Kernels for object detection, each beside a plain PyTorch reference. Of use without codetr."""

from codetr_kernels.deform_attention import deform_attention

__all__ = ["deform_attention"]
