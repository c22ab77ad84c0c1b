from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from codetr.errors import UserError
from codetr.evaluation.classes import ClassMatch, match_classes

COCO_IN_LVIS = {
    "car": "car_(automobile)",
    "bus": "bus_(vehicle)",
    "train": "train_(railroad_vehicle)",
    "fire hydrant": "fireplug",
    "tie": "necktie",
    "skis": "ski",
    "orange": "orange_(fruit)",
    "donut": "doughnut",
    "couch": "sofa",
    "tv": "television_set",
    "laptop": "laptop_computer",
    "mouse": "mouse_(computer_equipment)",
    "remote": "remote_control",
    "keyboard": "computer_keyboard",
    "cell phone": "cellular_telephone",
    "microwave": "microwave_oven",
    "hair drier": "hair_dryer",
}
NOT_IN_LVIS = ("sports ball", "hot dog", "potted plant")
"""LVIS has ball, sausage and flowerpot, which are more or less than these."""


@pytest.fixture(scope="module")
def names(shared: Path) -> dict[str, list[str]]:
    folder = shared / "data" / "eval"
    names: dict[str, list[str]] = json.loads((folder / "class_names.json").read_text())
    lvis = json.loads((folder / "lvis_v1_categories.json").read_text())["categories"]
    return names | {"lvis": [entry["name"] for entry in lvis]}


@pytest.fixture(scope="module")
def older(shared: Path) -> list[dict[str, Any]]:
    """Categories of LVIS v0.5, with their synonyms."""
    categories = json.loads((shared / "data" / "eval" / "lvis_val_100.json").read_text())["categories"]
    assert isinstance(categories, list)
    return categories


def pairs(match: ClassMatch) -> dict[str, str | None]:
    return {name: None if at is None else match.data[at] for name, at in zip(match.model, match.index, strict=True)}


def test_the_80_coco_classes_in_lvis(names: dict[str, list[str]]) -> None:
    found = pairs(match_classes(names["coco"], names["lvis"]))
    expected: dict[str, str | None] = {name: name.replace(" ", "_") for name in names["coco"]}
    expected |= {"wine glass": "wineglass", **COCO_IN_LVIS, **dict.fromkeys(NOT_IN_LVIS)}
    assert found == expected


def test_lvis_classes_in_coco(names: dict[str, list[str]]) -> None:
    match = match_classes(names["lvis"], names["coco"])
    assert match.renamed == {theirs: ours for ours, theirs in COCO_IN_LVIS.items()}
    assert match.unknown == NOT_IN_LVIS
    assert len(match.foreign) == 1203 - 77


def test_synonyms_of_lvis(names: dict[str, list[str]], older: list[dict[str, Any]]) -> None:
    synonyms = {entry["name"]: entry["synonyms"] for entry in older}
    match = match_classes(names["coco"], [entry["name"] for entry in older], synonyms=synonyms)
    # LVIS v0.5 calls persons "baby", with "person" among the synonyms. It has no oven, and a mouse that is an animal.
    assert match.renamed == {"person": "baby", **COCO_IN_LVIS}
    assert match.foreign == (*NOT_IN_LVIS, "oven")
    newer = match_classes(names["lvis"], [entry["name"] for entry in older], synonyms=synonyms)
    assert newer.renamed == {"person": "baby"}  # and no "grill" is a "grillroom", alias "grill_(restaurant)"


def test_pascal_voc_in_coco(names: dict[str, list[str]]) -> None:
    match = match_classes(names["voc"], names["coco"])
    assert match.renamed == {"aeroplane": "airplane", "motorbike": "motorcycle", "sofa": "couch"}
    assert match.foreign == ("tvmonitor",)
    assert pairs(match)["pottedplant"] == "potted plant"


def test_objects365_in_lvis(names: dict[str, list[str]]) -> None:
    match = match_classes(names["objects365v2"], names["lvis"])
    assert match.renamed == {
        **{name.capitalize(): COCO_IN_LVIS[name] for name in ("car", "tie", "couch", "bus", "laptop", "keyboard")},
        **{name.capitalize(): COCO_IN_LVIS[name] for name in ("mouse", "train", "remote", "donut", "microwave")},
        **{"Cell Phone": "cellular_telephone", "Fire Hydrant": "fireplug", "Speaker": "speaker_(stero_equipment)"},
        **{"Drum": "drum_(musical_instrument)", "Scale": "scale_(measuring_instrument)", "Crab": "crab_(animal)"},
        **{"Tape": "tape_(sticky_cloth_or_paper)", "Steak": "steak_(food)", "Chicken": "chicken_(animal)"},
        "Stapler": "stapler_(stapling_machine)",
    }


@pytest.mark.parametrize(
    ("model", "data", "expected"),
    [
        (["Traffic Light", "tv"], ["traffic-light", "TV"], [0, 1]),  # spelling
        (["Cat", "cat"], ["cat", "Cat"], [1, 0]),  # names alike but for spelling are told apart where they can be
        (["CAT", "dog"], ["cat", "Cat", "dog"], [None, 2]),
        (["mouse", "dog"], ["mouse_(animal)", "mouse_(toy)", "dog"], [None, 2]),  # two senses
        (["mouse_(animal)", "mouse_(toy)", "dog"], ["mouse", "dog"], [None, None, 1]),
        (["bat_(animal)", "dog"], ["bat_(club)", "dog"], [None, 1]),  # two qualifiers, two things
        (["horse", "pony"], ["horse", "horse_(toy)"], [0, None]),
        (["couch", "sofa"], ["sofa"], [None, 0]),  # the same name goes before the other
        (["couch", "dog"], ["sofa", "sofa_(bed)", "dog"], [0, 2]),
        (["(x)", "dog"], ["(y)", "dog"], [None, 1]),
    ],
)
def test_only_what_is_unambiguous(model: list[str], data: list[str], expected: list[int | None]) -> None:
    assert list(match_classes(model, data).index) == expected


def test_a_synonym_of_two_classes_is_none() -> None:
    synonyms = {"cup": ["glass"], "pane": ["glass"], "dog": ["hound"]}
    assert match_classes(["glass", "hound"], list(synonyms), synonyms=synonyms).index == (None, 2)


def test_what_is_said() -> None:
    assert match_classes(["a", "b"], ["b", "a"]).describe() == []
    match = match_classes(["dog", "tv", "cat"], ["television_set", "dog", "v", "w", "x", "y", "z", "zz"])
    assert not match.complete
    assert match.matched == (0, 1)
    assert match.describe() == [
        "the model knows 2 of the data set's 8 classes",
        "1 of them under another name: tv = television_set",
        "6 it cannot know: v, w, x, y, z and 1 more",
        "1 of its own are not in the data set: cat",
    ]


def test_nothing_in_common() -> None:
    with pytest.raises(UserError, match=r"^gt\.json: .* no class in common: the model knows a; the data set has b\."):
        match_classes(["a"], ["b"], source="gt.json")
