"""The federated loss: of each image, the class loss of some classes alone (FedLoss).

Source: Zhou et al., Probabilistic Two-stage Detection, arXiv 2103.07461, section 5.4.
"""

from __future__ import annotations

from torch import Tensor

UNCOUNTED = -1e4
"""The logit of a class that does not count. In every float type that trains, its probability and its cross-entropy
against "not this class" are 0 to the last bit, and so is what any sigmoid loss makes of them."""


def only_counted(logits: Tensor, counted: Tensor | None) -> Tensor:
    """Logits (..., B, N, K) for a sigmoid class loss to which the classes that do not count add nothing.

    counted: (B, K) bool, `Targets.counted_classes`; None counts all. Their loss and gradient are exactly 0. The loss
    itself stays as it is, and so do its kernels.
    """
    return logits if counted is None else logits.masked_fill(~counted.unsqueeze(-2), UNCOUNTED)
