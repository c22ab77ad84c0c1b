"""Which images an epoch has when images of rare classes come several times in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

import torch

from codetr.data.batches import sample_seed

_UNIT = 1 << 32  # fractions of factors are integers in these units, so that no rounding can add or lose an image


def repeat_factors(classes: Sequence[Collection[int]], *, threshold: float) -> list[float]:
    """How often each image should come in an epoch, at least 1.

    classes: of each image, the classes that it shows (repetitions do not count). threshold: t, in (0, 1]. A class c in
    the share f_c of the images has the factor max(1, sqrt(t / f_c)); an image has the largest of its classes', and 1 if
    it has none.

    Source: Gupta et al., LVIS, arXiv 1908.03195, section 5 ("repeat factor sampling").
    """
    images = Counter(label for shown in classes for label in set(shown))
    factor = {label: max(1.0, (threshold * len(classes) / count) ** 0.5) for label, count in images.items()}
    return [max((factor[label] for label in shown), default=1.0) for shown in classes]


def epoch_order(factors: Sequence[float], *, seed: int, epoch: int) -> list[int]:
    """The images of an epoch as indices, shuffled: image i comes floor or ceil of factors[i] times.

    Which images come once more is drawn by systematic sampling of the fractional parts, anew in each epoch. So the
    length, the sum of the factors rounded down, is that of every epoch, and the expected number of times is the factor
    (its fractional part scaled by what the rounding leaves). Stochastic rounding of each image, as in detectron2, has
    the same expectation but epochs of changing length, which neither schedules nor resuming like.

    factors: at least 0.
    """
    generator = torch.Generator().manual_seed(sample_seed(seed, epoch, -1))
    parts = [int(factor % 1 * _UNIT) for factor in factors]
    order = [index for index, factor in enumerate(factors) for _ in range(int(factor))]
    order += _systematic(parts, generator)
    shuffled: list[int] = torch.randperm(len(order), generator=generator).tolist()
    return [order[position] for position in shuffled]


def _systematic(parts: Sequence[int], generator: torch.Generator) -> list[int]:
    """Indices of floor(sum of the parts) units, none twice, each with a chance in proportion to its part (in `_UNIT`).

    The parts lie end to end in random order (neighbours in a file are alike); equally spaced points, one unit or a
    little more apart, choose those that they fall into.
    """
    total = sum(parts)
    count = total // _UNIT
    start = int(torch.randint(_UNIT, (), generator=generator))
    chosen: list[int] = []
    end = 0
    for index in torch.randperm(len(parts), generator=generator).tolist():
        end += parts[index]
        # Points lie at (k + start / _UNIT) * total / count, k >= 0: as many are below `end` as this has in units.
        if end * count * _UNIT > (len(chosen) * _UNIT + start) * total:
            chosen.append(index)
    return chosen
