"""A model in training: its moving average, how the ranks hold both, and the optimizer."""

from __future__ import annotations

from pathlib import Path

from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from codetr.engine.acceleration import accelerate
from codetr.engine.checkpoint import check_fits, read_weights, state_folder
from codetr.engine.config import TrainConfig
from codetr.engine.distributed import World
from codetr.engine.optim import build_optimizer
from codetr.engine.parallel import distribute
from codetr.engine.state import load_training_state, training_state


class Learner:
    """Changes the model that it is given: recomputed, compiled and sharded in place, as the settings say.

    whole: False while a step changes weights, so that they belong to no step.
    """

    def __init__(self, model: nn.Module, config: TrainConfig, world: World) -> None:
        self.model, self.whole = model, True
        self.ema = None
        if config.ema is not None:
            # Buffers are copied: averaging them by name would count shared ones twice.
            self.ema = ModelEmaV3(model, decay=config.ema.decay, use_warmup=True, exclude_buffers=True)
        accelerate(model, config)
        average = None if self.ema is None else self.ema.module
        self.parallel = distribute(model, world, how=config.parallel, average=average)
        self.optimizer = build_optimizer(model, config, device=world.device)

    @property
    def evaluated(self) -> nn.Module:
        """The model that is evaluated and shipped: the averaged one, if there is one."""
        return self.model if self.ema is None else self.ema.module

    def weights(self) -> dict[str, Tensor]:
        """Of the evaluated model; see `Parallel.weights`."""
        return self.parallel.weights(self.evaluated)

    def state(self) -> dict[str, Tensor]:
        """See `training_state`."""
        return training_state(self.optimizer, self._unshipped)

    def update(self, *, step: int) -> None:
        """Change the weights by their gradients. step: the number of this step, 1 for the first."""
        self.whole = False
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.update(self.model, step=step)
        self.whole = True

    def take_up(self, checkpoint: Path) -> None:
        """Be what was saved. Raises: UserError if it was another model, or other parameters of it were trained."""
        weights = read_weights(checkpoint)
        check_fits(self.evaluated, weights, source=checkpoint)
        self.parallel.load(self.evaluated, weights)
        folder = state_folder(checkpoint)
        load_training_state(folder, self.optimizer, self._unshipped, sharded=self.parallel.sharded)

    @property
    def _unshipped(self) -> nn.Module | None:
        """The model whose weights are state, because others are shipped."""
        return None if self.ema is None else self.model
