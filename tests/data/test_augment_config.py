from __future__ import annotations

from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from codetr.config import dump, validate
from codetr.data.augment_config import Jitter
from codetr.data.config import DataConfig
from codetr.document import open_document
from codetr.spec import Spec


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"augment": {"copy_paste": {}}, "masks": True}, "copy_paste needs jitter"),
        ({"augment": {"jitter": {}, "copy_paste": {}}}, "set masks: true, or, for data that has boxes alone, leave"),
        ({"augment": {"jitter": {}, "scales": [480]}}, "so scales would have no effect"),
        ({"augment": {"jitter": {}, "max_size": 900}}, "so max_size would have no effect"),
        ({"augment": {"jitter": {}, "crop": {"low": 100}, "scales": [80]}}, "so scales and crop would have no effect"),
        ({"augment": {"jitter": {"low": 3}}}, r"low \(3.0\) must not exceed high \(2.0\)"),
    ],
)
def test_contradictions(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message) as caught:
        DataConfig.model_validate(settings)
    assert caught.value.error_count() == 1


@pytest.mark.parametrize(
    "augment",
    [
        {"jitter": {}},
        {"jitter": {}, "crop": None},
        {"jitter": {"size": 1536}, "copy_paste": {}, "mosaic": {}, "mixup": {}},
        {"mosaic": {}, "mixup": {"alpha": 1.5}},
    ],
)
def test_combinations(augment: dict[str, Any]) -> None:
    assert DataConfig.model_validate({"masks": True, "augment": augment}).augment is not None


def test_jitter_is_the_published_one() -> None:
    assert Jitter() == Jitter(size=1024, low=0.1, high=2.0)


def test_settings_written_in_full_are_read_again() -> None:
    overrides = ["data.masks=true", "data.augment={jitter: {}, copy_paste: {}}"]
    spec = validate(Spec, open_document("zoo/quickstart.yaml", overrides))
    assert validate(Spec, open_document(yaml.safe_load(dump(spec)), [])) == spec
