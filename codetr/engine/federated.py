"""The two halves of a federated class loss are in two sections of a spec, and each needs the other."""

from __future__ import annotations

from collections.abc import Iterator

from codetr.config import Section
from codetr.errors import UserError
from codetr.spec import Spec


def require_class_draw(spec: Spec) -> None:
    """Raises: UserError if a class loss is federated and no classes are drawn for it, or the other way round."""
    users = list(_federated("criterion", spec.criterion))
    for name, head in spec.heads.items():
        users += _federated(f"heads.{name}", head.settings)
    if users and spec.data.federated is None:
        raise UserError(
            f"{' and '.join(users)}: the classes that count are drawn with the images. Set data.federated, for example "
            "data.federated.classes=50, or leave the setting out."
        )
    if spec.data.federated is not None and not users:
        raise UserError(
            "data.federated draws classes that nothing looks at. Set criterion.federated=true, and for a head "
            "heads.NAME.federated=true (of a two-stage head heads.NAME.roi.federated and roi.class_loss=sigmoid), or "
            "leave data.federated out."
        )


def _federated(place: str, settings: Section) -> Iterator[str]:
    """The places of all `federated: true` in a section."""
    for key in type(settings).model_fields:
        value = getattr(settings, key)
        if key == "federated" and value is True:
            yield f"{place}.federated=true"
        elif isinstance(value, Section):
            yield from _federated(f"{place}.{key}", value)
