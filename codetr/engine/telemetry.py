"""What a training step tells beside its losses, measured on the device and read back with them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from codetr.engine.conflict import BranchGradients
from codetr.models.collaborative import Collaborative
from codetr.structures import Memory, Positives, Pyramid


class StepObserver:
    """Watches the steps of a `Collaborative`; of another model there is nothing to tell.

    Figures of a step, scalars, to be averaged over ranks:

    - `positives.<head>.found` and `positives.<head>.queries`, per image: the positives of the head's assignment, and
      those of them that became queries.
    - every `conflict_every` steps `products.<branch>.<branch>`, scalar products of the gradients that the branches send
      into the encoder (`engine.conflict`), of all images of the step over all pieces and ranks.

    What the step computes stays as it is, bit for bit, and the device is asked nothing. The model knows its observer
    only while a piece is under way, so that no copy of it does. ranks: how many, each with its share of the batch.
    """

    def __init__(self, model: nn.Module, *, conflict_every: int | None, ranks: int) -> None:
        self._model = model if isinstance(model, Collaborative) else None
        self._every, self._ranks = conflict_every, ranks
        self._gradients = BranchGradients(None if self._model is None else self._model.adapter)
        self._measuring, self._images = False, 0
        self._counts: dict[str, Tensor] = {}
        self._products: dict[str, Tensor] = {}

    @contextmanager
    def piece(self, *, step: int) -> Iterator[None]:
        """Around forward and backward of one piece of a step. step: its number, 1 for the first of the run."""
        if self._model is None:
            yield
            return
        self._measuring = self._every is not None and step % self._every == 0
        self._model.observer = self
        try:
            yield
        finally:
            self._model.observer = None
        if self._measuring:
            _add(self._products, self._gradients.products())

    def figures(self) -> dict[str, Tensor]:
        """Of the pieces since the last call; then forgets them."""
        counts = {f"positives.{name}": count / self._images for name, count in self._counts.items()}
        # The step's gradient is the mean over ranks, and a product has two of them; one division is that of the mean.
        products = {f"products.{pair}": product / self._ranks for pair, product in self._products.items()}
        self._counts, self._products, self._images = {}, {}, 0
        return {**counts, **products}

    def decoder_reads(self, memory: Memory) -> None:
        self._images += len(memory.tokens)
        if self._measuring:
            self._gradients.watch_decoder(memory)

    def head_reads(self, name: str, pyramid: Pyramid, positives: Positives) -> None:
        if self._measuring:
            self._gradients.watch_head(name, pyramid)
        assert self._model is not None
        counts = {}
        if positives.found is not None:
            counts[f"{name}.found"] = positives.found.sum()
        if name in self._model.positive_queries:
            counts[f"{name}.queries"] = (positives.valid & (positives.labels < self._model.num_classes)).sum()
        _add(self._counts, counts)


def _add(totals: dict[str, Tensor], more: dict[str, Tensor]) -> None:
    for name, value in more.items():
        totals[name] = totals[name] + value if name in totals else value
