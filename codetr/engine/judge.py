"""Evaluations in the course of a run: when, what is kept of them, and whether training still pays."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from torch import Tensor, nn

from codetr.engine.averaging import average_weights
from codetr.engine.checkpoint import Meta, read_meta, save_checkpoint
from codetr.engine.checkpoints import reason_of
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.early_stopping import stop_reason
from codetr.engine.learner import Learner
from codetr.engine.log import MetricsLog
from codetr.engine.progress import TrainingProgress
from codetr.engine.run_folder import RunFolder

Figures = Mapping[str, float]

SHOWN = ("AP", "AP50", "AP75", "APr", "APc", "APf", "segm/AP", "segm/APr", "segm/APc", "segm/APf")
"""Figures that are said after an evaluation, where there are such: LVIS has frequency groups, masks a head for them."""


class Judge:
    """Every method is to be called by every rank.

    evaluate: figures of a model, `AP` among them; None never evaluates.
    """

    def __init__(
        self,
        evaluate: Callable[[nn.Module], Figures] | None,
        *,
        learner: Learner,
        folder: RunFolder,
        config: TrainConfig,
        world: World,
        meta: Meta,
        log: MetricsLog,
        progress: TrainingProgress,
    ) -> None:
        self.evaluate, self._learner, self._folder, self._config = evaluate, learner, folder, config
        self._world, self._meta, self._log, self._progress = world, meta, log, progress

    def is_due(self, step: int, *, end: int) -> bool:
        """At the end and after every `eval_every` epochs, unless that was done before the run was resumed."""
        every, epochs_done = self._config.eval_every, step % self._meta.steps_per_epoch == 0
        due = step == end or (every and epochs_done and self._meta.at(step).epoch % every == 0)
        if self.evaluate is None or step == 0 or every is None or not due:
            return False
        done = [record["step"] for record in self._log.read() if record["kind"] == "eval"]
        return bool(self._world.from_leader(step not in done))

    def judge(self, step: int) -> None:
        """Evaluate, keep the weights if there were none better, and note the figures."""
        figures = self._figures()
        now = self._meta.at(step, figures)
        if self._is_best(figures):
            self._save_best(self._learner.weights(), now)
        if self._world.leads:
            self._log.append({"kind": "eval", "epoch": now.epoch, "step": step, **figures})
        self._say(f"epoch {now.epoch}  step {step}", figures)

    def says_stop(self) -> bool:
        """Whether the evaluations so far say that further training does not pay."""
        if self._config.early_stopping is None:
            return False
        reason = stop_reason(self._log.read(), self._config.early_stopping) if self._world.leads else None
        if reason is not None:
            self._progress.say(f"stopped early: {reason}")
        return self._world.from_leader(reason) is not None

    def average(self, checkpoints: Sequence[Path], step: int) -> None:
        """One more checkpoint, of the mean weights of some; the evaluated model then has them."""
        weights = average_weights(checkpoints)
        self._learner.parallel.load(self._learner.evaluated, weights)
        figures = {} if self.evaluate is None else self._figures()
        now = self._meta.at(step, figures)
        if figures and self._is_best(figures):
            self._save_best(weights, now)
        if self._world.leads:
            save_checkpoint(self._folder.averaged, weights, now)
        if figures:
            self._say(f"mean of the last {len(checkpoints)} epochs' weights", figures)

    def best(self) -> Figures:
        """Figures of the best checkpoint so far."""
        return read_meta(self._folder.best).figures if self._folder.best.is_dir() else {}

    def _figures(self) -> Figures:
        assert self.evaluate is not None
        with self._learner.parallel.whole(self._learner.evaluated) as whole:
            figures: Figures = self._world.from_leader(dict(self.evaluate(whole)))
        return figures

    def _is_best(self, figures: Figures) -> bool:
        best = self._world.from_leader(self.best().get("AP", float("-inf")) if self._world.leads else None)
        return bool(figures["AP"] > best)

    def _save_best(self, weights: Mapping[str, Tensor], meta: Meta) -> None:
        if not self._world.leads:
            return
        try:
            save_checkpoint(self._folder.best, weights, meta)
        except (OSError, SafetensorError) as error:
            self._progress.say(
                f"warning: the best checkpoint so far (step {meta.step}) could not be written: {reason_of(error)}. "
                f"Training goes on. Make room in {self._folder.path}."
            )

    def _say(self, what: str, figures: Figures) -> None:
        values = {name: figures[name] for name in SHOWN if name in figures}
        shown = "  ".join(f"{name} " + (f"{value:.4f}" if value >= 0 else "n/a") for name, value in values.items())
        self._progress.say(f"{what}  {shown}")
