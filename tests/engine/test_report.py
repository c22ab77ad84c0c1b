"""Reports are due at once where they are complete, one step later where they come from a device."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from codetr.engine.distributed import World
from codetr.engine.report import NonFinite, Pending, Reports

ALONE = World(0, 1, torch.device("cpu"))


def pending(step: int, *, loss: float = 1.0, norm: float = 2.0, stop: bool = False) -> Pending:
    losses = {"match.cls": torch.tensor(loss), "match.l1": torch.tensor(0.5)}
    return Pending.launch(
        step=step, lr=0.1, losses=losses, norm=torch.tensor(norm), stop=stop, files=["a.jpg"], world=ALONE
    )


class Event:
    """Stands for a copy under way on a GPU."""

    def __init__(self) -> None:
        self.waited = False

    def synchronize(self) -> None:
        self.waited = True


def test_on_a_cpu_a_report_is_due_at_once() -> None:
    report = Reports(ALONE).push(pending(3, stop=True))
    assert report is not None
    assert (report.step, report.lr, report.grad_norm, report.stop) == (3, 0.1, 2.0, True)
    assert report.losses == {"match.cls": 1.0, "match.l1": 0.5}
    assert report.loss == 1.5


def test_on_a_gpu_a_report_is_due_one_step_later() -> None:
    reports, event = Reports(ALONE), Event()
    assert reports.push(replace(pending(1), event=event)) is None
    assert not event.waited
    report = reports.push(replace(pending(2), event=Event()))
    assert report is not None and report.step == 1 and event.waited
    report = reports.flush()
    assert report is not None and report.step == 2
    assert reports.flush() is None


def test_a_bad_step_on_a_gpu_is_found_before_anything_is_saved() -> None:
    reports = Reports(ALONE)
    assert reports.push(replace(pending(1, loss=float("nan")), event=Event())) is None
    with pytest.raises(NonFinite, match="step 1"):
        reports.flush()


def test_a_gradient_that_is_not_finite_stops_too() -> None:
    with pytest.raises(NonFinite, match=r"terms: grad_norm = inf\n  images: a\.jpg"):
        Reports(ALONE).push(pending(1, norm=float("inf")))


def test_figures_travel_with_the_losses_and_do_not_stop_the_run() -> None:
    """Two ranks, of which the other one sent twice as much."""

    class Two(World):
        def mean(self, values: torch.Tensor) -> torch.Tensor:
            return 1.5 * values

    world = Two(0, 2, torch.device("cpu"))
    figures = {"positives.atss.found": torch.tensor(8), "products.detr.detr": torch.tensor(float("inf"))}
    sent = Pending.launch(
        step=1,
        lr=0.1,
        losses={"match.cls": torch.tensor(2.0)},
        norm=torch.tensor(4.0),
        stop=True,
        files=[],
        world=world,
        figures=figures,
    )
    report = Reports(world).push(sent)
    assert report is not None
    assert (report.losses, report.grad_norm, report.stop) == ({"match.cls": 3.0}, 6.0, True)
    assert report.figures == {"positives.atss.found": 12.0, "products.detr.detr": float("inf")}
