"""The whole of a training run in one file: the model, the data, the training and the evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from codetr.config import dump, validate
from codetr.data.config import DataConfig
from codetr.document import Document, open_document
from codetr.engine.config import TrainConfig
from codetr.evaluation.config import EvalConfig
from codetr.models.build import ModelSpec

__all__ = ["Spec", "dump", "load_spec", "open_document"]


class Spec(ModelSpec):
    """A validated spec. Two are equal if their settings are, wherever these were set."""

    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    eval: EvalConfig = Field(default_factory=EvalConfig)

    _document: Document | None = PrivateAttr(default=None)

    @property
    def document(self) -> Document:
        """The settings as they were written, each with the file and line that set it."""
        if self._document is None:
            raise ValueError("this spec was made in Python, not by load_spec; it has no document")
        return self._document

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spec) and self.model_dump() == other.model_dump()


def load_spec(spec: str | Path | Mapping[str, Any], overrides: Sequence[str] = ()) -> Spec:
    """The spec of a path, of a zoo name or of a mapping, with `key=value` overrides.

    Raises: ConfigError with every error at once; UserError with the nearest name if there is no such spec.
    """
    document = open_document(spec, overrides)
    validated = validate(Spec, document)
    validated._document = document
    return validated
