"""The training loop, top to bottom."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from codetr.engine.checkpoint import Meta, load_weights, read_meta, read_state, read_weights, save_checkpoint
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World, replicated, without_sync
from codetr.engine.interrupt import Interrupt, Interrupted
from codetr.engine.log import MetricsLog, Window
from codetr.engine.optim import (
    build_optimizer,
    clip_gradients,
    load_optimizer_state,
    optimizer_state,
    set_learning_rate,
)
from codetr.engine.progress import TrainingProgress
from codetr.engine.report import Pending, Report, Reports
from codetr.engine.run_folder import RunFolder
from codetr.engine.schedule import Schedule
from codetr.engine.seed import seed_all
from codetr.errors import UserError
from codetr.structures import Batch

Figures = Mapping[str, float]


class Loader(Protocol):
    """Batches of this rank; the same ones for the same epoch."""

    def set_epoch(self, epoch: int, start_batch: int = 0) -> None: ...
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
    called on every rank; None never evaluates. All randomness of a step follows from (seed, rank, step).
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
        self.optimizer = build_optimizer(model, config, device=world.device)
        self.ema = None
        if config.ema is not None:
            # Buffers are copied: averaging them by name would count shared ones twice.
            self.ema = ModelEmaV3(model, decay=config.ema.decay, use_warmup=True, exclude_buffers=True)
        self._replica = replicated(model, world)
        self._meta, self._evaluate = meta, evaluate
        self._log, self._window, self._reports = MetricsLog(folder.metrics), Window(), Reports(world)
        self._progress, self._interrupt = progress, Interrupt()

    @property
    def evaluated_model(self) -> nn.Module:
        """The model that is evaluated and shipped: the averaged one, if there is one."""
        return self.model if self.ema is None else self.ema.module

    def resume(self) -> None:
        """Continue exactly where the run's last checkpoint was written. Raises: UserError if that is not possible."""
        state, meta = read_state(self.folder.last), read_meta(self.folder.last)
        if meta.steps_per_epoch != self._meta.steps_per_epoch:
            raise UserError(
                f"{self.folder.last}: an epoch had {meta.steps_per_epoch} steps, now it has "
                f"{self._meta.steps_per_epoch}. Resume with the same data and train.batch_size."
            )
        load_weights(self.evaluated_model, read_weights(self.folder.last), source=self.folder.last)
        if self.ema is not None:
            self.model.load_state_dict(state["weights"])
        load_optimizer_state(self.optimizer, state["optimizer"])
        self.step = meta.step
        if self.world.leads:
            self._log.truncate(self.step)

    def run(self, *, max_steps: int | None = None) -> Outcome:
        """Train to the end, to step `max_steps`, or until interrupted; then the last checkpoint is on disk.

        Raises: NonFinite if a loss or the gradient's norm is not a finite number.
        """
        end = min(self.schedule.total_steps, max_steps or self.schedule.total_steps)
        with self._interrupt.listening(), self._progress.running(total=end, start=self.step):
            self._evaluate_if_due(end=end)
            while self.step < end and not self.stop_signal:
                self._train_until(min(end, self._epoch_end()))
                self._save_last()
                self._evaluate_if_due(end=end)
        return Outcome(
            self.step, self.step >= self.schedule.total_steps, self._best_figures(), self.stop_signal or None
        )

    def _train_until(self, end: int) -> None:
        """Steps of one epoch, ending early if the run is interrupted."""
        epoch, done = divmod(self.step, self.schedule.steps_per_epoch)
        self._replica.train()
        self._window.restart()
        self.loader.set_epoch(epoch, start_batch=done * self.config.accumulate)
        for batches in grouped(self.loader, self.config.accumulate):
            self._handle(self._train_step(batches))
            if self.step == end or self.stop_signal:
                return
            if self.config.checkpoint_every and self.step % self.config.checkpoint_every == 0:
                self._save_last()
        raise RuntimeError(f"the loader ended at step {self.step}, although the epoch lasts until {self._epoch_end()}")

    def _train_step(self, batches: Sequence[Batch]) -> Report | None:
        """One optimizer step; returns the report that is due."""
        lr = self.config.lr * self.schedule.factor(self.step)
        set_learning_rate(self.optimizer, lr)
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
        )
        report = self._reports.push(pending)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1
        if self.ema is not None:
            self.ema.update(self.model, step=self.step)
        return report

    def _accumulate(self, batches: Sequence[Batch]) -> dict[str, Tensor]:
        """Gradients of the mean over pieces; returns the mean of every loss, detached."""
        mean: dict[str, Tensor] = {}
        for index, batch in enumerate(batches):
            moved = batch.to(self.world.device)
            with without_sync(self._replica, active=index + 1 < len(batches)):
                with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
                    losses: dict[str, Tensor] = self._replica(moved.images, moved.targets)
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

    def _evaluate_if_due(self, *, end: int) -> None:
        """Evaluate at the end and after every `eval_every` epochs, unless that was done before the run was resumed."""
        if self._evaluate is None or self.stop_signal or not self._evaluation_due(end):
            return
        self._progress.stage("evaluating")
        try:
            with self._interrupt.at_once(active=self.world.size == 1):
                figures = self.world.from_leader(dict(self._evaluate(self.evaluated_model)))
        except Interrupted:
            return self._agree_to_stop()
        if self.world.leads:
            if figures["AP"] > self._best_figures().get("AP", float("-inf")):
                save_checkpoint(self.folder.best, self.evaluated_model.state_dict(), self._meta_now(figures))
            self._log.append({"kind": "eval", "epoch": self._epoch(), "step": self.step, **figures})
        shown = "  ".join(f"{name} {figures[name]:.4f}" for name in ("AP", "AP50", "AP75") if name in figures)
        self._progress.say(f"epoch {self._epoch()}  step {self.step}  {shown}")
        self._agree_to_stop()

    def _evaluation_due(self, end: int) -> bool:
        every, at_epoch_end = self.config.eval_every, self.step % self.schedule.steps_per_epoch == 0
        due = self.step == end or (every and at_epoch_end and self._epoch() % every == 0)
        if self.step == 0 or every is None or not due:
            return False
        done = [record["step"] for record in self._log.read() if record["kind"] == "eval"]
        return bool(self.world.from_leader(self.step not in done))

    def _agree_to_stop(self) -> None:
        self.stop_signal = max(self.world.gather(self._interrupt.number or 0))

    def _save_last(self) -> None:
        """Write checkpoints/last. Raises: NonFinite if the step just done turns out to have been no good."""
        self._handle(self._reports.flush())
        self._write_line()
        state: dict[str, Any] = {"optimizer": optimizer_state(self.optimizer)}
        if self.ema is not None:
            state["weights"] = self.model.state_dict()
        if self.world.leads:
            save_checkpoint(self.folder.last, self.evaluated_model.state_dict(), self._meta_now({}), state=state)

    def _meta_now(self, figures: Figures) -> Meta:
        return replace(self._meta, epoch=self._epoch(), step=self.step, figures=figures)

    def _best_figures(self) -> Figures:
        return read_meta(self.folder.best).figures if self.folder.best.is_dir() else {}

    def _epoch(self) -> int:
        """Number of the epoch that the last step belongs to; 1 for the first."""
        return -(-self.step // self.schedule.steps_per_epoch)

    def _epoch_end(self) -> int:
        return (self.step // self.schedule.steps_per_epoch + 1) * self.schedule.steps_per_epoch


def grouped(batches: Loader, size: int) -> Iterator[list[Batch]]:
    """Consecutive batches, `size` at a time; the last group may be smaller."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group
