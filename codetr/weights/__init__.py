"""Weights from elsewhere."""

from codetr.weights.transformers import from_transformers

__all__ = ["from_transformers"]
