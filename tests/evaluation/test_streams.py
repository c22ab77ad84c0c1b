from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from evaluation_cases import IMAGES, RULES, UNSEEN, case

from codetr.errors import UserError
from codetr.evaluation import lvis_rules, streams
from codetr.evaluation.evaluators import EVALUATORS, Rules, open_evaluator, score
from codetr.evaluation.figures import Figures
from codetr.evaluation.hotcoco_stream import MatchedImages
from codetr.evaluation.packing import unpack
from codetr.evaluation.results import IouType, Results
from codetr.evaluation.scorer import Scorer, open_stream
from codetr.evaluation.streams import KeptDetections, Stream, divided, in_order
from codetr.evaluation.truth import GroundTruth


def figures_of(truth: GroundTruth, rules: Rules, evaluator: str, found: dict[int, Results]) -> Figures:
    scorer = Scorer(truth, rules, evaluator=open_evaluator(evaluator))
    for image, results in found.items():
        scorer.add(image, results)
    return scorer.figures()[0]


@pytest.mark.parametrize("evaluator", EVALUATORS)
@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("seed", [1, 2])
def test_a_stream_gives_the_figures_of_all_at_once_bit_for_bit(name: str, evaluator: str, seed: int) -> None:
    rules = RULES[name]
    truth, found = case(rules, seed=seed)
    everything = in_order(Results.joined([results for results in found.values() if len(results)]))
    expected = score(truth, everything, evaluator=open_evaluator(evaluator), rules=rules)
    assert figures_of(truth, rules, evaluator, found) == expected
    shuffled = random.Random(seed).sample(list(found.items()), len(found))
    assert figures_of(truth, rules, evaluator, dict(shuffled)) == expected
    assert 0.05 < expected.AP < 0.9


def test_more_detections_than_lvis_streams_take_are_all_counted() -> None:
    # 400 detections of an image, the limit is 1000: what hotcoco's streams would cut off at 300 still counts.
    rules = Rules("bbox", max_detections=1000, protocol="lvis")
    truth, found = case(rules, detections=400)
    assert figures_of(truth, rules, "hotcoco", found) == figures_of(truth, rules, "pycocotools", found)
    cut = {image: results.take(np.arange(min(300, len(results)))) for image, results in found.items()}
    assert figures_of(truth, rules, "hotcoco", cut) != figures_of(truth, rules, "hotcoco", found)


def all_at_once(truth: GroundTruth, rules: Rules, found: dict[int, Results], evaluator: str) -> Figures:
    everything = in_order(Results.joined([results for results in found.values() if len(results)]))
    return score(truth, everything, evaluator=open_evaluator(evaluator), rules=rules)


@pytest.mark.parametrize("kind", ["bbox", "segm"])
def test_lvis_counts_nothing_without_an_area(kind: IouType) -> None:
    rules = Rules(kind, protocol="lvis", max_detections=8)
    truth, found = case(rules, seed=3)
    truth = replace(truth, areas=np.where(np.arange(len(truth.areas)) % 3 == 0, 0.0, truth.areas))
    flat = {image: replace(results, boxes=results.boxes.copy()) for image, results in found.items()}
    for results in flat.values():
        results.boxes[::4, 2] = 0.0
    expected = all_at_once(truth, rules, flat, "pycocotools")
    assert figures_of(truth, rules, "hotcoco", flat) == expected
    assert expected != all_at_once(replace(truth, areas=truth.areas + 1.0), rules, flat, "pycocotools")


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_a_stream_does_not_tell_classes_apart_if_told_so(evaluator: str) -> None:
    rules = Rules(class_agnostic=True)
    truth, found = case(rules)
    expected = all_at_once(truth, rules, found, evaluator)
    assert figures_of(truth, rules, evaluator, found) == expected
    assert expected != all_at_once(truth, Rules(), found, evaluator)


def test_images_are_matched_as_they_come_where_that_is_possible() -> None:
    truth, _ = case(RULES["lvis boxes"])
    hotcoco, pycocotools = map(open_evaluator, EVALUATORS)
    matched = [name for name, rules in RULES.items() if rules.iou_type == "bbox" and rules.protocol == "lvis"]
    kinds = {name: type(open_stream(hotcoco, truth, RULES[name])) for name in matched}
    assert kinds == {
        "lvis boxes": MatchedImages,
        "lvis boxes, 5": MatchedImages,
        "lvis boxes, 1000": KeptDetections,
        "fixed": KeptDetections,
    }
    assert type(open_stream(pycocotools, truth, RULES["lvis boxes"])) is KeptDetections


def test_what_is_matched_is_smaller_than_the_detections() -> None:
    rules = RULES["lvis boxes"]
    truth, found = case(rules, detections=300)
    matched, kept = MatchedImages(truth, rules), KeptDetections(truth, rules=rules)
    for stream in (matched, kept):
        add_all(stream, found)
    assert len(matched.state()) < len(kept.state()) / 2


def add_all(stream: Stream, found: dict[int, Results]) -> None:
    for image, results in found.items():
        stream.add(image, results)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_an_image_counts_as_it_came_first(evaluator: str) -> None:
    rules = RULES["coco boxes"]
    truth, found = case(rules)
    worse = found[40].take(np.array([0]))
    library = open_evaluator(evaluator)
    first, second, whole = (open_stream(library, truth, rules) for _ in range(3))
    add_all(whole, found)
    whole.add(40, worse)  # comes again on this rank
    add_all(first, {40: found[40], 2: found[2]})
    add_all(second, {image: results for image, results in found.items() if image != 2} | {40: worse})
    expected = whole.curves([whole.state()])
    merged = first.curves([first.state(), second.state()])
    assert np.array_equal(merged.precision, expected.precision)
    assert np.array_equal(merged.recall, expected.recall)
    swapped = first.curves([second.state(), first.state()])
    assert not np.array_equal(swapped.precision, expected.precision)


@pytest.mark.parametrize("evaluator", EVALUATORS)
def test_no_image_at_all_is_zero(evaluator: str) -> None:
    truth, _ = case(RULES["coco boxes"])
    assert figures_of(truth, RULES["coco boxes"], evaluator, {}).AP == 0


def test_a_state_names_the_images_seen() -> None:
    truth, found = case(RULES["coco boxes"])
    stream = KeptDetections(truth)
    add_all(stream, {15: found[15], 8: found[8]})
    assert divided(stream.state())[0] == [15, 8]
    assert UNSEEN not in found
    assert UNSEEN in IMAGES


@pytest.mark.parametrize("name", ["coco boxes", "coco masks", "lvis masks"])
def test_images_and_classes_of_another_data_set_are_named(name: str) -> None:
    truth, found = case(RULES[name])
    stream = open_stream(open_evaluator(), truth, RULES[name])
    one = found[40].take(np.array([0]))
    other = Results(one.file, np.array([77]), one.category_ids, one.boxes, one.scores, one.segmentations)
    with pytest.raises(UserError, match=r"image ids that gt\.json does not have: 77"):
        stream.add(77, other)
    other = Results(one.file, one.image_ids, np.array([8]), one.boxes, one.scores, one.segmentations)
    with pytest.raises(UserError, match=r"category ids that gt\.json does not have: 8 "):
        stream.add(40, other)
    stream.add(40, found[40])  # a failure is not taken for the image


def test_masks_need_masks_of_the_ground_truth() -> None:
    truth, _ = case(RULES["coco boxes"])
    with pytest.raises(UserError, match="have no `segmentation`"):
        open_stream(open_evaluator(), truth, Rules("segm"))


def test_what_fixed_ap_does_not_count_is_thrown_away(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = RULES["fixed"]
    truth, found = case(rules, detections=200)
    monkeypatch.setattr(streams, "PRUNED_AT", 100)
    pruned, kept = KeptDetections(truth, rules=rules, limit=20), KeptDetections(truth, rules=rules)
    add_all(pruned, found)
    add_all(kept, found)
    rows, everything = (unpack(divided(stream.state())[1]).rows() for stream in (pruned, kept))
    everything = everything[np.argsort(everything[:, 0], kind="stable")]
    for category in np.unique(everything[:, 6]):
        own = everything[everything[:, 6] == category]
        best = own[np.sort(np.argsort(-own[:, 5], kind="stable")[:20])]
        assert np.array_equal(rows[rows[:, 6] == category], best)
    assert sum(len(part) for part in pruned.results()) < 20 * 6 + 200 + 100


@pytest.mark.parametrize("seed", range(4))
def test_equal_scores_at_the_limit_of_fixed_ap_are_ranked_by_image(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    for module in (streams, lvis_rules):
        monkeypatch.setattr(module, "FIXED_LIMIT", 7)
    rules = RULES["fixed"]
    truth, found = case(rules, seed=seed, detections=60)
    whole, *ranks = (open_stream(open_evaluator(), truth, rules) for _ in range(3))
    add_all(whole, found)
    for index, (image, results) in enumerate(sorted(found.items(), reverse=True)):
        ranks[index % 2].add(image, results)
    expected = whole.curves([whole.state()])
    merged = whole.curves([rank.state() for rank in ranks])
    assert np.array_equal(merged.precision, expected.precision)
    assert np.array_equal(merged.recall, expected.recall)
