"""What is kept of a run while it trains, and how it goes on from there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from codetr.engine.averaging import averaged_epochs
from codetr.engine.checkpoint import Meta, read_meta, verify
from codetr.engine.checkpoints import Checkpoints
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.launch import resume_command
from codetr.engine.learner import Learner
from codetr.engine.run_folder import RunFolder
from codetr.errors import UserError


class Keeper:
    """Saves a learner, and has it go on from what was saved. say: prints a line."""

    def __init__(
        self,
        learner: Learner,
        folder: RunFolder,
        *,
        config: TrainConfig,
        world: World,
        meta: Meta,
        say: Callable[[str], None],
    ) -> None:
        self._learner, self._folder, self._config, self._world = learner, folder, config, world
        self._meta, self._say = meta, say
        self._averaged = {epoch * meta.steps_per_epoch for epoch in averaged_epochs(config)}
        self._checkpoints: Checkpoints | None = None
        self._saved = -1  # step of the newest checkpoint

    @property
    def averaged(self) -> list[Path]:
        """The checkpoints whose weights are to be averaged at the end, the oldest first."""
        return [self._folder.checkpoint(step) for step in sorted(self._averaged)]

    def resume(self, checkpoint: Path) -> int:
        """Take up a checkpoint; returns its step. Raises: UserError if that is not possible."""
        self._verify(checkpoint)
        meta = read_meta(checkpoint)
        if meta.steps_per_epoch != self._meta.steps_per_epoch:
            raise UserError(
                f"{checkpoint}: an epoch had {meta.steps_per_epoch} steps, now it has "
                f"{self._meta.steps_per_epoch}. Resume with the same data and train.batch_size."
            )
        self._learner.take_up(checkpoint)
        self._saved = meta.step
        return meta.step

    def save(self, step: int) -> None:
        """Begin to write a checkpoint, if this step has none. To be called by every rank."""
        if self._saved == step:
            return
        is_first = self._saved < 0
        if self._checkpoints is None:
            self._checkpoints = Checkpoints(
                self._folder,
                self._world,
                keep=self._config.keep_last,
                sharded=self._learner.parallel.sharded,
                say=self._say,
            )
        self._checkpoints.save(
            self._learner.weights(), self._meta.at(step), state=self._learner.state(), keep_too=self._averaged
        )
        self._saved = step
        if is_first:  # `best` may be saved next, and a run that is killed with that alone could not go on
            self._checkpoints.wait()

    def finish(self) -> None:
        """Until all is on disk. Raises: NotSaved, on every rank, if the newest checkpoint could not be written."""
        if self._checkpoints is not None:
            self._checkpoints.wait(last=True)

    def rescue(self, step: int) -> None:
        """Save the last whole step after an error, if that is possible without the other ranks."""
        learner = self._learner
        if learner.parallel.sharded or not learner.whole or self._saved == step or not self._world.leads:
            return
        weights = [tensor for tensor in learner.weights().values() if tensor.is_floating_point()]
        if all(bool(torch.isfinite(tensor).all()) for tensor in weights):
            self.save(step)
            assert self._checkpoints is not None
            self._checkpoints.wait()
            if self._folder.last == self._folder.checkpoint(step):
                self._say(f"step {step} was saved; to go on: {resume_command(self._folder.path)}")

    def close(self) -> None:
        if self._checkpoints is not None:
            self._checkpoints.close()

    def _verify(self, checkpoint: Path) -> None:
        """Raises: UserError if a file is damaged, naming the newest checkpoint that is not."""
        try:
            verify(checkpoint)
        except UserError as error:
            for other in reversed(self._folder.steps):
                if other != checkpoint and _is_whole(other):
                    raise UserError(f"{error}\n{other} is whole: codetr train --resume {other}") from error
            raise


def _is_whole(checkpoint: Path) -> bool:
    try:
        verify(checkpoint)
    except UserError:
        return False
    return True
