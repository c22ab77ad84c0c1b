"""Sections: what is coerced, what is refused, and every error at once with its place."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import pytest
from pydantic import Field, ValidationError, model_validator

from codetr import yaml_nodes
from codetr.config import Section, dump, validate
from codetr.document import open_document
from codetr.errors import ConfigError


class Crop(Section):
    low: int = 3
    high: int = 5

    @model_validator(mode="after")
    def _ordered(self) -> Crop:
        if self.low > self.high:
            raise ValueError(f"low ({self.low}) must not exceed high ({self.high})")
        return self


class Train(Section):
    lr: float = Field(default=2e-4, gt=0)
    epochs: int = Field(default=12, ge=1)
    ema: bool = False
    schedule: Literal["step", "cosine"] = "step"
    betas: tuple[float, float] = (0.9, 0.999)
    batch: int | Literal["auto"] = 16
    crop: Crop | None = None
    folder: Path | None = None


class Whole(Section):
    name: str
    train: Train = Field(default_factory=Train)
    crops: dict[str, Crop] = Field(default_factory=dict)
    list_of: tuple[Crop, ...] = ()


def problems(tmp_path: Path, text: str, *overrides: str) -> list[str]:
    """The lines of the error that a file causes, without the folder."""
    file = tmp_path / "x.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as error:
        validate(Whole, open_document(file, overrides))
    return [line.replace(f"{tmp_path}/", "") for line in error.value.problems]


@pytest.mark.parametrize(
    ("settings", "field", "value"),
    [
        ({"lr": "2e-4"}, "lr", 2e-4),
        ({"lr": 1}, "lr", 1.0),
        ({"epochs": "36"}, "epochs", 36),
        ({"epochs": 36.0}, "epochs", 36),
        ({"ema": True}, "ema", True),
        ({"batch": "auto"}, "batch", "auto"),
        ({"batch": 4}, "batch", 4),
        ({"betas": [1, "0.5"]}, "betas", (1.0, 0.5)),
        ({"folder": "a/b"}, "folder", Path("a/b")),
    ],
)
def test_what_is_coerced(settings: dict[str, object], field: str, value: object) -> None:
    assert getattr(Train.model_validate(settings), field) == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": True}, "must be a number"),
        ({"epochs": True}, "must be a number"),
        ({"epochs": 1.5}, "must be a whole number"),
        ({"betas": [0.9, False]}, "must be a number"),
        ({"batch": True}, "must be a number"),
        ({"ema": 1}, "must be true or false"),
        ({"ema": "no"}, "must be true or false"),
        ({"ema": "true"}, "must be true or false"),
        ({"schedule": "cosin"}, "must be 'step' or 'cosine'"),
        ({"lr": -1}, "must be greater than 0"),
        ({"crop": {"low": True}}, "must be a number"),
    ],
)
def test_what_is_not_guessed(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError) as error:
        Train.model_validate(settings)
    assert message in [entry["msg"] for entry in error.value.errors()]


def test_a_section_is_immutable_and_its_defaults_are_its_own() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Train().lr = 1.0  # type: ignore[misc]
    assert Train() == Train.model_validate({})


def test_all_errors_at_once_each_on_one_line_with_its_place(tmp_path: Path) -> None:
    text = """\
train:
  lr: fast
  epoch: 3
  ema: no
  schedule: cosin
  betas: [0.9]
  crop:
    low: 9
crops:
  a: {low: 1, hihg: true}
  b: [1]
list_of:
  - low: 1
  - lo: 1
nonsense: 1
"""
    assert problems(tmp_path, text, "train.epochs=0", "train.batch=often") == [
        "x.yaml:1: name: is missing",
        "x.yaml:2: train.lr: found 'fast', must be a number",
        "command line: train.epochs: found 0, must be greater than or equal to 1",
        "x.yaml:4: train.ema: found 'no', must be true or false",
        "x.yaml:5: train.schedule: found 'cosin', must be 'step' or 'cosine'",
        "x.yaml:6: train.betas.1: is missing",
        "command line: train.batch: found 'often', must be a whole number or must be 'auto'",
        "x.yaml:7: train.crop: low (9) must not exceed high (5)",
        "x.yaml:3: train.epoch: unknown key; did you mean 'epochs'?",
        "x.yaml:10: crops.a.hihg: unknown key; did you mean 'high'?",
        "x.yaml:11: crops.b: found [1], must be a mapping",
        "x.yaml:14: list_of.1.lo: unknown key; did you mean 'low'?",
        "x.yaml:15: nonsense: unknown key; valid keys: crops, list_of, name, train",
    ]


def test_one_error_is_the_whole_message_and_several_have_a_heading(tmp_path: Path) -> None:
    file = tmp_path / "x.yaml"
    file.write_text("name: n\ntrain: {lr: 0}\n")
    with pytest.raises(ConfigError) as error:
        validate(Whole, open_document(file))
    assert str(error.value) == f"{file}:2: train.lr: found 0, must be greater than 0"
    with pytest.raises(ConfigError) as error:
        validate(Whole, open_document(file, ["train.ema=1"]))
    assert str(error.value).splitlines() == [
        "2 errors in the spec 'x':",
        f"  {file}:2: train.lr: found 0, must be greater than 0",
        "  command line: train.ema: found 1, must be true or false",
    ]


def test_the_place_is_the_file_that_set_the_value(tmp_path: Path) -> None:
    (tmp_path / "low.yaml").write_text("train:\n  lr: 0\n  epochs: 0\n")
    text = "extends: [low.yaml]\nname: n\ntrain:\n  epochs: -1\n"
    assert problems(tmp_path, text) == [
        "low.yaml:2: train.lr: found 0, must be greater than 0",
        "x.yaml:4: train.epochs: found -1, must be greater than or equal to 1",
    ]


def test_a_long_value_is_cut(tmp_path: Path) -> None:
    (line,) = problems(tmp_path, f"name: n\ntrain:\n  lr: {'a' * 200}\n")
    assert line == f"x.yaml:3: train.lr: found '{'a' * 56}..., must be a number"


def test_a_dump_loads_back_to_the_same_values() -> None:
    whole = Whole(name="no", train=Train(lr=1e-5, folder=Path("2e-4")), crops={"on": Crop()}, list_of=(Crop(low=1),))
    text = dump(whole)
    assert Whole.model_validate(yaml_nodes.parse(text, "x.yaml").plain()) == whole
    assert "folder: '2e-4'" in text


class Outer(Section):
    default: int = 1
    config: bool = True
    metadata: dict[str, int] = Field(default_factory=dict)


def test_fields_may_be_named_like_parts_of_a_schema() -> None:
    with pytest.raises(ValidationError) as error:
        Outer.model_validate({"default": True, "config": 1, "metadata": {"a": False}})
    assert [entry["loc"] for entry in error.value.errors()] == [("default",), ("config",), ("metadata", "a")]
