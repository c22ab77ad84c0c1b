"""YAML to validated settings: every section is a frozen pydantic model, every error names its place."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a spec. Unknown keys are errors; values are immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True)
