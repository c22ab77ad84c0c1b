"""The ATSS head: its losses by hand. Against the authors' code: `test_published.py`; what all heads do: one-stage."""

from __future__ import annotations

import pytest
from one_stage import LN2, NO, YES, constant, four_cells, one_object


def test_losses_by_hand() -> None:
    """Anchors of 8 x 8, one of them the object, the others beside it.

    The threshold of the candidates' IoUs 0, 0, 0, 1 is 1/4 + 1/2. The positive's box is shifted by half its width, 5
    deltas of a tenth: IoU and generalised IoU 32 / 96. Its centre is the object's, so centerness is to be 1.
    """
    head = constant("atss", anchor_scale=1, box=[5.0, 0, 0, 0])
    output = head(four_cells(), one_object(4, 4, 12, 12))
    losses = {term: loss.item() for term, loss in output.losses.items()}
    assert losses == pytest.approx({"cls": YES + 7 * NO, "box": 2 * 2 / 3, "centerness": LN2}, rel=1e-6)
    assert output.positives.boxes[output.positives.valid].tolist() == [[4, 4, 12, 12]]
