from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from codetr.data.augment_config import Augment, Crop
from codetr.data.config import DataConfig, Synthetic


def test_null_leaves_parts_out() -> None:
    config = DataConfig.model_validate({"augment": {"crop": None, "scales": [96, 128]}, "workers": None})
    assert config.augment == Augment(scales=(96, 128), crop=None)
    assert DataConfig.model_validate({"augment": None}).augment is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"augment": {"scales": []}}, "augment.scales"),
        ({"augment": {"scales": [0]}}, "augment.scales.0"),
        ({"augment": {"flip": 1.5}}, "augment.flip"),
        ({"augment": {"crop": {"low": 700}}}, "augment.crop"),
        ({"on_bad_image": "ignore"}, "on_bad_image"),
        ({"synthetic": {"size": 64}}, ""),  # needs dir
        ({"dir": "x", "synthetic": {"train": 0}}, "synthetic.train"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        DataConfig.model_validate(settings)
    assert words in [".".join(map(str, error["loc"])) for error in caught.value.errors()]


def test_crop_needs_an_ordered_range() -> None:
    with pytest.raises(ValidationError, match=r"low \(50\) must not exceed high \(40\)"):
        Crop(low=50, high=40)


def test_the_synthetic_settings_are_those_of_the_generator() -> None:
    import inspect

    from codetr.data.synthetic import generate

    ours = Synthetic().model_dump()
    theirs = {name: parameter.default for name, parameter in inspect.signature(generate).parameters.items()}
    assert ours == {name: theirs[name] for name in ours}
    assert set(theirs) - set(ours) == {"directory", "workers", "progress"}
