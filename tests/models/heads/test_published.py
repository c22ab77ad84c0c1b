"""ATSS and Faster-RCNN against the authors' code: losses, positives and predictions on the same pyramid."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from codetr.models.heads.atss import ATSS
from codetr.models.heads.contract import Head
from codetr.models.heads.faster_rcnn import FasterRCNN
from codetr.models.parts.positive_sampler import PositiveSampler
from codetr.ops.boxes import normalise
from codetr.structures import Positives, Pyramid, Targets

STRIDES = (8, 16, 32, 64, 128)
K = 7
WEIGHT = 12.0  # the stored losses are multiplied by lambda_2 = 2 times 6 decoder layers

# Their names by ours; the rest of a name is equal.
NAMES = {
    "atss": {
        "cls_tower.0.conv": "bbox_head.0.cls_convs.0.conv",
        "cls_tower.0.norm": "bbox_head.0.cls_convs.0.gn",
        "box_tower.0.conv": "bbox_head.0.reg_convs.0.conv",
        "box_tower.0.norm": "bbox_head.0.reg_convs.0.gn",
        "cls": "bbox_head.0.atss_cls",
        "box": "bbox_head.0.atss_reg",
        "centerness": "bbox_head.0.atss_centerness",
    },
    "faster_rcnn": {
        "rpn.conv": "rpn_head.rpn_conv",
        "rpn.objectness": "rpn_head.rpn_cls",
        "rpn.deltas": "rpn_head.rpn_reg",
        "roi.fc.0": "roi_head.0.bbox_head.shared_fcs.0",
        "roi.fc.1": "roi_head.0.bbox_head.shared_fcs.1",
        "roi.cls": "roi_head.0.bbox_head.fc_cls",
        "roi.deltas": "roi_head.0.bbox_head.fc_reg",
    },
}


def their_name(head: str, name: str) -> str:
    if name.startswith("scales."):
        return f"bbox_head.0.{name}.scale"
    module, _, leaf = name.rpartition(".")
    return f"{NAMES[head][module]}.{leaf}"


@dataclass(frozen=True)
class Published:
    """What the authors' code put out, and its weights."""

    out: dict[str, Any]
    shapes: dict[str, tuple[int, ...]]
    fill: Any

    @property
    def pyramid(self) -> Pyramid:
        return Pyramid(tuple(self.out["query_head"][4]), STRIDES, torch.tensor(self.out["shapes"]).float())

    @property
    def targets(self) -> Targets:
        boxes = torch.nn.utils.rnn.pad_sequence(self.out["gt_boxes"], batch_first=True)
        labels = torch.nn.utils.rnn.pad_sequence(self.out["gt_labels"], batch_first=True)
        counts = tuple(len(rows) for rows in self.out["gt_labels"])
        return Targets(boxes, labels, torch.arange(boxes.shape[1]) < torch.tensor(counts).unsqueeze(1), counts)

    def head(self, name: str, sampler: PositiveSampler) -> Head:
        built = build(name, sampler)
        for key, tensor in built.state_dict().items():
            theirs = their_name(name, key)  # scales are numbers there, vectors of one here
            tensor.copy_(self.fill.value(theirs, self.shapes[theirs]))
        return built

    def loss(self, name: str) -> float:
        """A loss of theirs, summed over levels."""
        values = [value for key, value in self.out["losses"].items() if key.partition("[")[0] == name]
        assert values
        return sum(values)


def build(name: str, sampler: PositiveSampler) -> Head:
    """The settings of the stored model: samplers keep everything, the batch counts as one image size for anchors."""
    if name == "atss":
        config = ATSS.Config(anchors_in_padding=True, nms_candidates=200, max_detections=30)
        return ATSS(config, dim=256, num_classes=K, strides=STRIDES, sampler=sampler)
    rpn = {
        "channels": 64,
        "anchors_in_padding": True,
        "samples": 1_000_000,
        "train_candidates": 200,
        "train_proposals": 60,
        "test_candidates": 200,
        "test_proposals": 60,
    }
    roi = {"hidden": 32, "samples": 1_000_000, "max_detections": 30}
    settings = FasterRCNN.Config.model_validate({"rpn": rpn, "roi": roi})
    return FasterRCNN(settings, dim=256, num_classes=K, strides=STRIDES, sampler=sampler)


@pytest.fixture(scope="module")
def published(shared: Path) -> Published:
    folder = shared / "data" / "oracles"
    stored = torch.load(folder / "codeform.pt", weights_only=True)
    spec = importlib.util.spec_from_file_location("fill", folder / "fill.py")
    assert spec is not None and spec.loader is not None
    fill = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(fill)
    return Published(stored["out"], stored["shapes_by_name"], fill)


@pytest.mark.parametrize(
    ("name", "terms"),
    [
        ("atss", {"cls": "loss_cls1", "box": "loss_bbox1", "centerness": "loss_centerness1"}),
        (
            "faster_rcnn",
            {"rpn_cls": "loss_rpn_cls", "rpn_box": "loss_rpn_bbox", "cls": "loss_cls0", "box": "loss_bbox0"},
        ),
    ],
)
def test_losses(published: Published, name: str, terms: dict[str, str]) -> None:
    losses = published.head(name, PositiveSampler())(published.pyramid, published.targets).losses
    assert set(losses) == set(terms)
    for ours, theirs in terms.items():
        # Sums of a few thousand float32 terms in another order: 1e-5 leaves room, a wrong sample would not fit.
        assert losses[ours].item() * WEIGHT == pytest.approx(published.loss(theirs), rel=1e-5), ours


@pytest.mark.parametrize(("name", "theirs"), [("atss", "one-stage"), ("faster_rcnn", "two-stage")])
def test_predictions(published: Published, name: str, theirs: str) -> None:
    found = published.head(name, PositiveSampler()).predict(published.pyramid)
    for ours, per_class in zip(found, published.out[f"pred/{theirs}"], strict=True):
        rows = torch.cat(list(per_class))
        labels = torch.cat([torch.full((len(c),), label) for label, c in enumerate(per_class)])
        order = rows[:, 4].argsort(descending=True, stable=True)
        assert torch.equal(ours.labels, labels[order])
        torch.testing.assert_close(ours.scores, rows[order, 4], rtol=0, atol=1e-5)
        # Theirs are in pixels of images twice as large.
        torch.testing.assert_close(ours.boxes * 2, rows[order, :4], rtol=1e-5, atol=2e-3)


def captured(published: Published, name: str) -> dict[str, Tensor]:
    values = published.out["captured"]["aux_targets"][["faster_rcnn", "atss"].index(name)]
    return dict(zip(("boxes", "labels", "targets", "weights", "box_weights", "features"), values, strict=False))


@pytest.mark.parametrize("name", ["atss", "faster_rcnn"])
@pytest.mark.parametrize("fill", ["mask", "negatives"])
def test_positives(published: Published, name: str, fill: Any) -> None:
    """The same positives with the same features and targets; as many negatives, if wanted, though other ones."""
    pyramid, theirs = published.pyramid, captured(published, name)
    ours = published.head(name, PositiveSampler(fill=fill))(pyramid, published.targets).positives
    for image in range(2):
        rows = sorted_rows(ours, pyramid, image, keep=ours.valid[image] & (ours.labels[image] < K))
        keep = theirs["labels"][image] < K
        parts = (theirs[part][image][keep] for part in ("boxes", "labels", "targets", "features"))
        expected = sort_rows(torch.cat([part.view(int(keep.sum()), -1) for part in parts], dim=1))
        torch.testing.assert_close(rows, expected, rtol=1e-5, atol=1e-5)
    if fill == "negatives":
        assert ours.valid.sum(1).tolist() == [theirs["labels"].shape[1]] * 2


def sorted_rows(positives: Positives, pyramid: Pyramid, image: int, *, keep: Tensor) -> Tensor:
    boxes, targets = (normalise(part, pyramid.sizes)[image] for part in (positives.boxes, positives.targets))
    parts = (boxes, positives.labels[image].unsqueeze(1), targets, positives.features[image].detach())
    return sort_rows(torch.cat(parts, dim=1)[keep])


def sort_rows(rows: Tensor) -> Tensor:
    """By the first columns, which are the boxes."""
    keys = (rows[:, :4] * 1e3).round().tolist()
    return rows[sorted(range(len(rows)), key=keys.__getitem__)]


@pytest.mark.parametrize("name", ["atss", "faster_rcnn"])
def test_a_sampler_may_be_replaced(published: Published, name: str) -> None:
    """Every choice of the heads passes through `sampler.pick`."""

    class Last(PositiveSampler):
        def pick(
            self, labels: Tensor, candidate: Tensor, num_classes: int, *, seeds: Tensor | None = None
        ) -> tuple[Tensor, Tensor]:
            assert num_classes == K
            index = torch.tensor([[labels.shape[1] - 1]] * len(labels))
            return index, candidate.gather(1, index)

    head = published.head(name, PositiveSampler())
    head.sampler = Last()
    positives = head(published.pyramid, published.targets).positives
    assert positives.boxes.shape == (2, 1, 4)


def test_every_stored_weight_of_the_heads_is_used(published: Published) -> None:
    used = {their_name(name, key) for name in NAMES for key in build(name, PositiveSampler()).state_dict()}
    stored = {key for key in published.shapes if key.startswith(("rpn_head.", "roi_head.", "bbox_head."))}
    assert used == stored
