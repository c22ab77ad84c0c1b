"""Event files, which TensorBoard shows as curves."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codetr.errors import UserError

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

PLACES = ("kind", "epoch", "step")  # where a record belongs: no curves


class EventFiles:
    """Writes records into a folder: `train/loss`, `eval/AP`, `losses/atss.cls` and so on, one curve each.

    Every process adds a file, made with its first record. Raises: UserError if TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError("train.tensorboard needs TensorBoard: pip install 'codetr[log]'")
        self.folder = folder
        self._writer: SummaryWriter | None = None
        self._purge_step: int | None = None

    def forget_after(self, step: int) -> None:
        """The run goes on from this step: TensorBoard is to leave out what it has of later ones."""
        self.close()
        self._purge_step = step + 1

    def add(self, record: Mapping[str, Any]) -> None:
        """The numbers of a record, on disk at once."""
        if self._writer is None:
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(self.folder), purge_step=self._purge_step)
            self._purge_step = None
        try:
            for tag, value in scalars(record).items():
                self._writer.add_scalar(tag, value, record["step"])
            self._writer.flush()
        except OSError:
            self._writer = None  # one that has failed fails for ever
            raise

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """Numbers by tag; what stands before the slash makes a section of the page."""
    found: dict[str, float] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            found |= {f"{name}/{key}": float(entry) for key, entry in value.items()}
        elif name not in PLACES and value is not None:
            found[f"{record['kind']}/{name}"] = float(value)
    return found
