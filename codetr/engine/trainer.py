"""The training loop, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

import torch
from torch import Tensor, nn

from codetr.engine.checkpoint import Meta
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.event_files import EventFiles
from codetr.engine.freezing import start_training
from codetr.engine.interrupt import Interrupt, Interrupted
from codetr.engine.judge import Figures, Judge
from codetr.engine.keeper import Keeper
from codetr.engine.learner import Learner
from codetr.engine.log import MetricsLog, Window
from codetr.engine.optim import clip_gradients, set_learning_rate
from codetr.engine.prefetch import prefetched
from codetr.engine.progress import TrainingProgress
from codetr.engine.report import NonFinite, Pending, Report, Reports
from codetr.engine.run_folder import RunFolder
from codetr.engine.schedule import Schedule
from codetr.engine.seed import seed_all
from codetr.engine.telemetry import StepObserver
from codetr.structures import Batch

Item = TypeVar("Item")


class Loader(Protocol):
    """Batches of this rank; the same ones for the same epoch."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...
    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Batch]: ...


@dataclass(frozen=True)
class Outcome:
    """How a run ended. figures: of the best checkpoint. signal: what interrupted the run, or None."""

    step: int
    finished: bool
    figures: Figures
    signal: int | None


class Trainer:
    """Trains a model whose call `model(images, targets)` returns weighted losses by name.

    meta: describes the checkpoints; its step says how far training is. evaluate: figures of a model, `AP` among them,
    called on every rank; None never evaluates. All randomness of a step follows from (seed, rank, step), that of an
    image's targets from (seed, epoch, image).
    """

    def __init__(
        self,
        model: nn.Module,
        loader: Loader,
        *,
        config: TrainConfig,
        world: World,
        folder: RunFolder,
        meta: Meta,
        progress: TrainingProgress,
        evaluate: Callable[[nn.Module], Figures] | None = None,
    ) -> None:
        self.model, self.loader, self.config, self.world, self.folder = model, loader, config, world, folder
        self.step, self.stop_signal = 0, 0  # steps done; the signal that asked to stop, 0 if none did
        self.schedule = Schedule(config, meta.steps_per_epoch)
        self.learner = Learner(model, config, world)
        events = EventFiles(folder.path / "events") if config.tensorboard and world.leads else None
        self._meta, self._progress, self._interrupt = meta, progress, Interrupt()
        self._log = MetricsLog(folder.metrics, events=events, say=progress.say)
        self._window, self._reports = Window(), Reports(world)
        self._observer = StepObserver(model, conflict_every=config.conflict_every, ranks=world.size)
        self._keeper = Keeper(self.learner, folder, config=config, world=world, meta=meta, say=progress.say)
        self.judge = Judge(
            evaluate,
            learner=self.learner,
            folder=folder,
            config=config,
            world=world,
            meta=meta,
            log=self._log,
            progress=progress,
        )

    @property
    def steps_left(self) -> int:
        return self.schedule.total_steps - self.step

    def resume(self, checkpoint: Path | None = None) -> None:
        """Continue exactly where a checkpoint was written, the run's newest unless another is given.

        Raises: UserError if that is not possible.
        """
        self.step = self._keeper.resume(self.folder.last if checkpoint is None else checkpoint)
        if self.world.leads:
            self._log.truncate(self.step)

    def run(self, *, max_steps: int | None = None) -> Outcome:
        """Train to the end, to step `max_steps`, or until interrupted; then the newest checkpoint is on disk.

        Raises: NonFinite if a loss or the gradient's norm is not a finite number. NotSaved if the newest checkpoint
        could not be written. Whatever else ends a run, the last step that was whole is saved.
        """
        end = min(self.schedule.total_steps, max_steps or self.schedule.total_steps)
        with self._interrupt.listening(), self._progress.running(total=end, start=self.step):
            try:
                finished = self._train(end) or self.step >= self.schedule.total_steps
                self._keeper.finish()
                if finished and not self.stop_signal:
                    self._average_last()
            except NonFinite:
                raise
            except Exception:
                self._keeper.rescue(self.step)
                raise
            finally:
                self._keeper.close()
                self._log.close()
        return Outcome(self.step, finished, self.judge.best(), self.stop_signal or None)

    def _train(self, end: int) -> bool:
        """Returns whether training ended before its time, because it no longer paid."""
        self._evaluate_if_due(end)
        while self.step < end and not self.stop_signal:
            if self.judge.says_stop():
                return True
            self._train_until(min(end, self._epoch_end()))
            self._save()
            self._evaluate_if_due(end)
        return False

    def _train_until(self, end: int) -> None:
        """Steps of one epoch, ending early if the run is interrupted."""
        epoch, done = divmod(self.step, self.schedule.steps_per_epoch)
        start_training(self.learner.parallel.called)
        self._window.restart()
        self.loader.set_epoch(epoch, start_batch=done * self.config.accumulate)
        batches = prefetched(self.loader, self.world.device)
        for group in grouped(self._window.waiting(batches), self.config.accumulate):
            self._handle(self._train_step(group))
            if self.step == end or self.stop_signal:
                return
            if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                self._save()
        raise RuntimeError(f"the loader ended at step {self.step}, although the epoch lasts until {self._epoch_end()}")

    def _train_step(self, batches: Sequence[Batch]) -> Report | None:
        """One optimizer step; returns the report that is due."""
        lr = self.schedule.lr(self.step)
        set_learning_rate(self.learner.optimizer, lr)
        seed_all(self.config.seed, self.world.rank, self.step)
        losses = self._accumulate(batches)
        norm = clip_gradients(self.model.parameters(), self.config.clip_norm)
        files = [info.file for batch in batches for info in batch.infos]
        pending = Pending.launch(
            step=self.step + 1,
            lr=lr,
            losses=losses,
            norm=norm,
            stop=self._interrupt.number is not None,
            files=files,
            world=self.world,
            figures=self._observer.figures(),
        )
        report = self._reports.push(pending)
        self.learner.update(step=self.step + 1)
        self.step += 1
        return report

    def _accumulate(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Gradients of the mean over pieces; returns the mean of every loss, detached."""
        mean: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            autocast = torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.precision == "bf16")
            held_back = self.learner.parallel.without_sync(active=index + 1 < len(batches))
            with held_back, self._observer.piece(step=self.step + 1):
                with autocast:
                    losses: dict[str, Tensor] = self.learner.parallel.called(batch.images, batch.targets)
                (torch.stack([loss.float() for loss in losses.values()]).sum() / len(batches)).backward()
            for name, loss in losses.items():
                part = loss.detach() / len(batches)
                mean[name] = mean[name] + part if name in mean else part
        return mean

    def _handle(self, report: Report | None) -> None:
        """Log a step, and note a request to stop, which all ranks see in the report of the same step."""
        if report is None:
            return
        self._window.add(report, images=self.config.batch_size)
        self._progress.advance(report.step)
        if report.stop:
            self._agree_to_stop()
        if report.step % self.config.log_every == 0:
            self._write_line()

    def _write_line(self) -> None:
        """A record of the steps since the last one, if there were any."""
        if not len(self._window):
            return
        record = self._window.record(epoch=self._epoch(), device=self.world.device)
        if self.world.leads:
            self._log.append(record)
        self._progress.show(record)
        self._window.restart()

    def _evaluate_if_due(self, end: int) -> None:
        if self.stop_signal or not self.judge.is_due(self.step, end=end):
            return
        self._progress.stage("evaluating")
        try:
            with self._interrupt.at_once(active=self.world.size == 1):
                self.judge.judge(self.step)
        except Interrupted:
            pass
        self._agree_to_stop()

    def _average_last(self) -> None:
        """After the last epoch, if its weights and those of epochs before it are to be averaged."""
        paths = self._keeper.averaged
        if paths and paths[-1] == self.folder.checkpoint(self.step):
            self.judge.average(paths, self.step)

    def _save(self) -> None:
        """Begin to write a checkpoint. Raises: NonFinite if the step just done turns out to have been no good."""
        self._handle(self._reports.flush())
        self._write_line()
        with self._window.aside():
            self._keeper.save(self.step)

    def _agree_to_stop(self) -> None:
        self.stop_signal = max(self.world.gather(self._interrupt.number or 0))

    def _epoch(self) -> int:
        """Number of the epoch that the last step belongs to; 1 for the first."""
        return self._meta.at(self.step).epoch

    def _epoch_end(self) -> int:
        return (self.step // self.schedule.steps_per_epoch + 1) * self.schedule.steps_per_epoch


def grouped(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Consecutive items, `size` at a time; the last group may be smaller."""
    iterator = iter(items)
    while group := list(islice(iterator, size)):
        yield group
