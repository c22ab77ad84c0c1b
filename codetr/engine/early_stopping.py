"""When further training does not pay, by the evaluations so far."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from codetr.engine.config import EarlyStopping, TrainConfig
from codetr.errors import UserError


def stop_reason(records: Iterable[Mapping[str, Any]], config: EarlyStopping) -> str | None:
    """Why training should end, or None.

    records: those of metrics.jsonl in their order, of which `kind: eval` are looked at; so a run that is resumed
    decides as one that was never stopped. The best AP is the last one that was better than the best before it by more
    than `min_delta`. An AP that is no number is not better.
    """
    best, since, where = float("-inf"), 0, 0
    for record in records:
        if record["kind"] != "eval":
            continue
        if record["AP"] > best + config.min_delta:
            best, since, where = record["AP"], 0, record["epoch"]
        else:
            since += 1
    if since < config.patience:
        return None
    margin = f" by more than {config.min_delta:g}" if config.min_delta else ""
    reached = f"the AP of {best:.4f} of epoch {where}" if where else "any AP"
    last = "The last evaluation has" if since == 1 else f"The last {since} evaluations have"
    return f"{last} not raised {reached}{margin} (train.early_stopping.patience={config.patience})."


def check_early_stopping(config: TrainConfig) -> None:
    """Raises: UserError if there is nothing to decide by."""
    if config.early_stopping is not None and not config.eval_every:
        every = "null" if config.eval_every is None else config.eval_every
        raise UserError(
            f"train.early_stopping needs evaluations during training, but train.eval_every={every} has none. Set "
            "train.eval_every=1, or train.early_stopping=null."
        )
