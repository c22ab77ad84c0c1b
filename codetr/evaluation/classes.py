"""Which class of a data set each class of a model is, told by their names."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from codetr.errors import UserError

SAME = (
    ("airplane", "aeroplane"),
    ("cell phone", "cellular telephone", "mobile phone"),
    ("couch", "sofa"),
    ("donut", "doughnut"),
    ("fire hydrant", "fireplug"),
    ("hair drier", "hair dryer"),
    ("keyboard", "computer keyboard"),
    ("laptop", "laptop computer"),
    ("microwave", "microwave oven"),
    ("motorcycle", "motorbike"),
    ("mouse", "computer mouse"),
    ("remote", "remote control"),
    ("skis", "ski"),
    ("tie", "necktie"),
    ("tv", "television set", "tv set"),
)
"""Names that COCO, Pascal VOC, LVIS and Objects365 have for the same thing, as LVIS's synonyms say in part.

A model trained on LVIS keeps the names of its classes, not their synonyms, and finds COCO's by these.
"""

NAMED = 5  # names that a message shows


@dataclass(frozen=True)
class ClassMatch:
    """The classes of a model and those of a data set, paired by name.

    model, data: their names, in order. index: for each class of the model its position in `data`, or None.
    """

    model: tuple[str, ...]
    data: tuple[str, ...]
    index: tuple[int | None, ...]

    @property
    def complete(self) -> bool:
        """True if each has exactly the classes of the other."""
        return not self.unknown and not self.foreign

    @property
    def matched(self) -> tuple[int, ...]:
        """Positions in `data` of the classes that the model knows, ascending."""
        return tuple(sorted(position for position in self.index if position is not None))

    @property
    def unknown(self) -> tuple[str, ...]:
        """Classes of the data set that the model cannot know."""
        known = set(self.matched)
        return tuple(name for position, name in enumerate(self.data) if position not in known)

    @property
    def foreign(self) -> tuple[str, ...]:
        """Classes of the model that the data set does not have."""
        return tuple(name for name, position in zip(self.model, self.index, strict=True) if position is None)

    @property
    def renamed(self) -> dict[str, str]:
        """Pairs of unlike names, the model's first. Spelling (case, spaces, underscores, hyphens) does not count."""
        pairs = ((name, self.data[at]) for name, at in zip(self.model, self.index, strict=True) if at is not None)
        return {ours: theirs for ours, theirs in pairs if spelt(ours) != spelt(theirs)}

    def as_dict(self) -> dict[str, object]:
        """For a JSON file: every name."""
        return {
            "matched": [self.data[position] for position in self.matched],
            "matched_under_another_name": self.renamed,
            "unknown_to_the_model": list(self.unknown),
            "not_in_the_data": list(self.foreign),
        }

    def describe(self) -> list[str]:
        """Lines for people: how many match, which do so under another name, which do not. None if all are alike."""
        lines = []
        if not self.complete:
            share = f"{len(self.matched)} of the data set's" if self.unknown else "all of the data set's"
            lines.append(f"the model knows {share} {len(self.data)} classes")
        if self.renamed:
            pairs = [f"{ours} = {theirs}" for ours, theirs in self.renamed.items()]
            lines.append(f"{len(pairs)} of them under another name: {', '.join(pairs)}")
        if self.unknown:
            lines.append(f"{len(self.unknown)} it cannot know: {some(self.unknown)}")
        if self.foreign:
            lines.append(f"{len(self.foreign)} of its own are not in the data set: {some(self.foreign)}")
        return lines


def match_classes(
    model: Sequence[str], data: Sequence[str], *, synonyms: Mapping[str, Sequence[str]] | None = None, source: str = ""
) -> ClassMatch:
    """Pair the classes of a model with those of a data set by name, one with one.

    The surest sense decides: the same name; the same but for spelling; a synonym; a name without its qualifier, as in
    LVIS's `bus_(vehicle)`. A name that stands for several classes in a sense stands for none. Qualifiers of synonyms
    stay: `grill_(restaurant)` is no grill.

    synonyms: further names of classes of `data`, as LVIS lists them. source: the data set, for messages.

    Raises:
        UserError: no class of one is a class of the other.
    """
    further = synonyms or {}
    index: dict[int, int] = {}
    for ours, theirs in (
        (_identical, _identical),
        (_own, _own),
        (_also_called, lambda name: _also_called(name).union(*map(_own, further.get(name, ())))),
        (_unqualified, _unqualified),
    ):
        found = _pairs(model, data, ours, theirs, taken=index)
        index |= {at: position for at, position in found.items() if not _apart(model[at], data[position])}
    if not index:
        raise UserError(
            f"{source + ': ' if source else ''}the model and the data set have no class in common: the model knows "
            f"{some(model)}; the data set has {some(data)}. Evaluate on a data set with classes that the model knows."
        )
    return ClassMatch(tuple(model), tuple(data), tuple(index.get(position) for position in range(len(model))))


Names = Callable[[str], "frozenset[str]"]


def _pairs(
    model: Sequence[str], data: Sequence[str], ours: Names, theirs: Names, *, taken: Mapping[int, int]
) -> dict[int, int]:
    """The pairs in which each is the only one that the other can mean, among all classes and not only those left."""
    places: dict[str, set[int]] = {}
    for position, name in enumerate(data):
        for form in theirs(name):
            places.setdefault(form, set()).add(position)
    candidates = {at: set().union(*(places.get(form, ()) for form in ours(name))) for at, name in enumerate(model)}
    wanted: dict[int, int] = {}
    for at, found in candidates.items():
        if at not in taken:
            for position in found:
                wanted[position] = wanted.get(position, 0) + 1
    used = set(taken.values())
    pairs = ((at, next(iter(found))) for at, found in candidates.items() if at not in taken and len(found) == 1)
    return {at: position for at, position in pairs if position not in used and wanted[position] == 1}


def _apart(ours: str, theirs: str) -> bool:
    """True for two names with qualifiers that differ: `bat_(animal)` is no `bat_(club)`."""
    qualifiers = [spelt("".join(re.findall(r"\(.*?\)", name))) for name in (ours, theirs)]
    return all(qualifiers) and qualifiers[0] != qualifiers[1]


def spelt(name: str) -> str:
    """A name without what is a matter of spelling: case, spaces, underscores and hyphens."""
    return re.sub(r"[\s_\-]+", "", name.casefold())


_SAME = {spelt(name): frozenset(map(spelt, group)) for group in SAME for name in group}


def _identical(name: str) -> frozenset[str]:
    return frozenset({name})


def _own(name: str) -> frozenset[str]:
    return frozenset({spelt(name)})


def _also_called(name: str) -> frozenset[str]:
    return _own(name) | _SAME.get(spelt(name), frozenset())


def _unqualified(name: str) -> frozenset[str]:
    bare = spelt(re.sub(r"\(.*?\)", "", name))
    return _also_called(name) | _SAME.get(bare, frozenset()) | ({bare} if bare else frozenset())


def some(names: Sequence[str], *, limit: int = NAMED) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
