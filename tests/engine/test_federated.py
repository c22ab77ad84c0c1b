from __future__ import annotations

from typing import Any

import pytest

from codetr.engine.federated import require_class_draw
from codetr.engine.inputs import require_possible
from codetr.errors import UserError
from codetr.spec import load_spec

SIGMOID = "heads={faster_rcnn: {roi: {class_loss: sigmoid, federated: true}}}"


def spec(*overrides: str) -> Any:
    return load_spec("zoo/quickstart.yaml", overrides)


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("criterion.federated=true", "criterion.federated=true"),
        ("heads.atss.federated=true", "heads.atss.federated=true"),
        (SIGMOID, "heads.faster_rcnn.roi.federated=true"),
    ],
)
def test_a_federated_loss_and_the_draw_of_its_classes_need_each_other(setting: str, named: str) -> None:
    with pytest.raises(UserError, match=f"{named}: .* Set data.federated"):
        require_possible(spec(setting))
    require_class_draw(spec(setting, "data.federated.classes=5"))


def test_classes_that_nothing_looks_at() -> None:
    with pytest.raises(UserError, match="draws classes that nothing looks at"):
        require_class_draw(spec("data.federated.classes=5"))
    require_class_draw(spec())
