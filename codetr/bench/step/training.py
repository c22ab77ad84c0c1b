"""The training step that is measured: that of the trainer, with nothing read back or written."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor

from codetr.bench.step.recorder import AVERAGE, BACKWARD, DATA, OPTIMIZER, TRANSFER, Recorder
from codetr.bench.step.subjects import Subject
from codetr.engine.optim import build_optimizer, clip_gradients
from codetr.engine.seed import seed_all
from codetr.structures import Batch


class TrainingStep:
    """Trains a subject by `run`, one optimizer step a call, at the learning rate of its settings.

    Step n is seeded by n alone, so it draws the same whatever was measured before.
    """

    def __init__(self, subject: Subject, device: torch.device) -> None:
        self.subject, self.number = subject, 0
        config = subject.config
        self._device = device
        self._optimizer = build_optimizer(subject.model, config, device=device)
        self._ema = None
        if config.ema is not None:
            self._ema = ModelEmaV3(subject.model, decay=config.ema.decay, use_warmup=True, exclude_buffers=True)

    def run(self, batches: Iterator[Batch], recorder: Recorder) -> dict[str, Tensor]:
        """One step on `train.accumulate` batches; returns the losses of the last one, detached."""
        config = self.subject.config
        with recorder.step():
            seed_all(config.seed, 0, self.number)
            for _ in range(config.accumulate):
                losses = self._piece(batches, recorder)
            with recorder.part(OPTIMIZER):
                clip_gradients(self.subject.model.parameters(), config.clip_norm)
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
            self.number += 1
            if self._ema is not None:
                with recorder.part(AVERAGE):
                    self._ema.update(self.subject.model, step=self.number)
        return losses

    def _piece(self, batches: Iterator[Batch], recorder: Recorder) -> dict[str, Tensor]:
        config = self.subject.config
        with recorder.part(DATA):
            batch = next(batches)
        with recorder.part(TRANSFER):
            batch = batch.to(self._device)
        with torch.autocast(self._device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            losses = self.subject.losses(batch)
        loss = torch.stack([loss.float() for loss in losses.values()]).sum() / config.accumulate
        with recorder.part(BACKWARD):
            loss.backward()
        return {name: loss.detach() for name, loss in losses.items()}
