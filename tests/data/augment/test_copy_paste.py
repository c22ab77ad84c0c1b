from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from codetr.data.augment import copy_paste as module
from codetr.data.augment.copy_paste import copy_paste, paste
from codetr.data.augment.objects import tight_boxes
from codetr.data.coco import Sample

Draw = Callable[..., Sample]
Show = Callable[[Sample], list[list[str]]]

BELOW = [
    "AAAA....",
    "AAAA....",
    "AAAA....",
    "........",
    "......BB",
    "......BB",
    "........",
    "........",
]
ABOVE = [
    "........",
    ".CCC....",
    ".CCC....",
    "........",
    "......DD",
    "......DD",
    "........",
    "........",
]


def _chosen(*indices: int) -> torch.Tensor:
    return torch.tensor(indices, dtype=torch.int64)


def test_one_object_pasted(draw: Draw, drawn: Show) -> None:
    result = paste(draw(BELOW), draw(ABOVE, base=100), _chosen(0))
    assert result.labels.tolist() == [0, 1, 2]
    assert drawn(result)[0] == [
        "####....",
        "#.......",
        "#.......",
        "........",
        "........",
        "........",
        "........",
        "........",
    ]
    assert drawn(result)[2][:4] == ["........", ".###....", ".###....", "........"]
    assert result.boxes.tolist() == [[0, 0, 4, 3], [6, 4, 8, 6], [1, 1, 4, 3]]
    for channel in result.image.tolist():
        assert channel == [
            [1, 1, 1, 1, 0, 0, 0, 0],
            [1, 103, 103, 103, 0, 0, 0, 0],
            [1, 103, 103, 103, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 2, 2],
            [0, 0, 0, 0, 0, 0, 2, 2],
            [0, 0, 0, 0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0, 0, 0],
        ]


def test_an_object_that_is_covered_goes(draw: Draw, drawn: Show) -> None:
    result = paste(draw(BELOW), draw(ABOVE), _chosen(1))
    assert result.labels.tolist() == [0, 3]  # B lies under D: its box moved by less than 10 px, but nothing is left
    assert result.boxes.tolist() == [[0, 0, 4, 3], [6, 4, 8, 6]]
    assert drawn(result)[0] == [row.replace("A", "#").replace("B", ".") for row in BELOW]


def test_all_objects_pasted(draw: Draw) -> None:
    assert paste(draw(BELOW), draw(ABOVE), _chosen(1, 0)).labels.tolist() == [0, 3, 2]


def test_nothing_pasted(draw: Draw) -> None:
    sample = draw(BELOW)
    assert paste(sample, draw(ABOVE), _chosen()) is sample


def test_onto_an_image_without_objects(draw: Draw) -> None:
    result = paste(draw(["........"] * 8), draw(ABOVE), _chosen(0, 1))
    assert result.labels.tolist() == [2, 3]
    assert result.masks is not None and torch.equal(result.masks, draw(ABOVE).masks)


def test_what_was_given_is_not_changed(draw: Draw) -> None:
    sample, source = draw(BELOW), draw(ABOVE)
    paste(sample, source, _chosen(0, 1))
    for given, again in ((sample, draw(BELOW)), (source, draw(ABOVE))):
        assert given.masks is not None and again.masks is not None
        assert torch.equal(given.image, again.image) and torch.equal(given.masks, again.masks)


def test_crowd_regions_are_those_of_the_image_below(draw: Draw) -> None:
    below = replace(draw(BELOW), ignore_boxes=torch.tensor([[0.0, 0, 2, 2]]))
    above = replace(draw(ABOVE), ignore_boxes=torch.tensor([[4.0, 4, 8, 8]]))
    assert paste(below, above, _chosen(0)).ignore_boxes.tolist() == [[0, 0, 2, 2]]


def _covered(width: int, height: int, rest: int) -> list[int]:
    """Labels after an object of this size is covered from the right, but for `rest` columns."""
    masks = torch.zeros(2, 40, 60, dtype=torch.bool)
    masks[0, :height, :width] = True
    masks[1, :, rest:width] = True
    empty = torch.zeros(0, 4)
    image = torch.zeros(3, 40, 60, dtype=torch.uint8)
    boxes = tight_boxes(masks)
    whole = Sample(image, boxes, torch.tensor([7, 8]), empty, masks, None)  # type: ignore[arg-type]
    below = replace(whole, boxes=boxes[:1], labels=whole.labels[:1], masks=masks[:1])
    return paste(below, whole, _chosen(1)).labels.tolist()


def test_kept_if_the_box_moved_by_ten_pixels_at_most() -> None:
    assert _covered(width=20, height=5, rest=10) == [7, 8]  # the right side moved by 10
    assert _covered(width=21, height=5, rest=10) == [8]  # by 11


def test_kept_if_more_than_300_pixels_are_left() -> None:
    assert _covered(width=50, height=30, rest=10) == [8]  # 300
    assert _covered(width=50, height=31, rest=10) == [7, 8]  # 310


def test_numbers_pasted_are_uniform(draw: Draw) -> None:
    source = draw(["AB", "CD"])
    empty = draw(["..", ".."])
    torch.manual_seed(0)
    counts = [len(copy_paste(empty, source, most=99).labels) for _ in range(1000)]
    # Five numbers, 200 each expected; a deviation is 12.6.
    assert all(140 < counts.count(number) < 260 for number in range(5))
    torch.manual_seed(0)
    few = [copy_paste(empty, source, most=2).labels for _ in range(600)]
    assert {len(labels) for labels in few} == {0, 1, 2}
    singles = [labels.tolist()[0] for labels in few if len(labels) == 1]
    assert set(singles) == {0, 1, 2, 3}
    assert all(len(set(labels.tolist())) == len(labels) for labels in few)


def test_invariants_on_random_scenes() -> None:
    generator = torch.Generator().manual_seed(3)
    for _ in range(30):
        sample, source = _scene(generator), _scene(generator)
        chosen = torch.randperm(len(source.labels), generator=generator)[:2]
        result = paste(sample, source, chosen)
        assert result.masks is not None and source.masks is not None and sample.masks is not None
        new = len(result.labels) - len(chosen)
        assert torch.equal(result.boxes, tight_boxes(result.masks))
        assert torch.equal(result.masks[new:], source.masks[chosen])
        assert torch.equal(result.labels[new:], source.labels[chosen])
        cover = result.masks[new:].any(dim=0)
        assert not (result.masks[:new] & cover).any()
        assert torch.equal(result.image, torch.where(cover, source.image, sample.image))
        for mask, label in zip(result.masks[:new], result.labels[:new], strict=True):  # labels are unique
            assert torch.equal(mask, sample.masks[sample.labels == label][0] & ~cover)
        rest = tight_boxes(sample.masks & ~cover)
        area = (sample.masks & ~cover).sum(dim=(1, 2))
        near = ((rest - sample.boxes).abs() <= module.MOVED).all(dim=1)
        keep = (area > 0) & (near | (area > module.REMAINING))
        assert result.labels[:new].tolist() == sample.labels[keep].tolist()


def _scene(generator: torch.Generator) -> Sample:
    """Five ellipses, each with a label of its own."""
    masks = torch.zeros(5, 64, 64, dtype=torch.bool)
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    for mask in masks:
        y, x, h, w = (torch.rand(4, generator=generator) * torch.tensor([64, 64, 25, 25])).tolist()
        mask |= ((rows - y) / (h + 1)) ** 2 + ((columns - x) / (w + 1)) ** 2 < 1
        mask[int(y) % 64, int(x) % 64] = True
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=generator)
    labels = torch.randperm(5, generator=generator)
    return Sample(image, tight_boxes(masks), labels, torch.zeros(0, 4), masks, None)  # type: ignore[arg-type]
