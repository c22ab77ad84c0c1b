"""Where the shipped specs are: in an installed package inside it, in a checkout beside it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from codetr.errors import UserError, nearest

SUFFIX = ".yaml"
PAPER = "paper"
"""The folder of the specs that are rows of the paper's tables."""

COCO_VAL = "COCO val"
_PUBLISHED = re.compile(rf"(?P<what>.+?): (?P<ap>\d+\.\d) AP on {COCO_VAL}\b.*")
_ROW = re.compile(r"(?P<table>Table \d+), (?P<method>.+?), K = (?P<k>\d+), (?P<epochs>\d+) epochs(, (?P<detail>.+))?")
_MEASURED = re.compile(r"Measured: (?P<ap>\d+\.\d) AP on (?P<dataset>.+?)[,.;]( .*)?")


@dataclass(frozen=True)
class Row:
    """Where a spec stands in the paper. table: `Table 2`. detail: what else sets the row apart, or nothing."""

    table: str
    method: str
    k: int
    epochs: int
    detail: str


@dataclass(frozen=True)
class Measured:
    """AP that this project measured, and on what."""

    ap: float
    dataset: str


@dataclass(frozen=True)
class Recipe:
    """What the comment at the head of a spec says.

    The first line is what the spec is, with `: 49.5 AP on COCO val` behind it where a figure is published; a row of the
    paper is `Table 2, METHOD, K = 1, 36 epochs[, DETAIL]: 41.5 AP on COCO val.` A further line may be
    `Measured: 26.3 AP on DATA SET, ...`.
    published: AP on COCO val.
    """

    name: str
    summary: str
    published: float | None = None
    row: Row | None = None
    measured: Measured | None = None


def root() -> Path:
    """The folder of the zoo: package data first, then beside the checkout.

    Raises: UserError if the installation has no zoo.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / "zoo", package.parent / "zoo"):
        if folder.is_dir():
            return folder
    raise UserError(f"no zoo beside or inside {package}: install codetr again")


def names() -> list[str]:
    """Every spec and fragment, as `extends` writes it: the path under the zoo without `.yaml`."""
    folder = root()
    found = (path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*{SUFFIX}"))
    return sorted(found, key=_by_number)


def _by_number(name: str) -> list[tuple[int, str]]:
    """Sorts `table2` before `table10`."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name) if part]


def recipes() -> list[str]:
    """The names that can be trained as they are: those at the top, then those of the paper's tables in `paper/`."""
    known = names()
    return [name for name in known if "/" not in name] + [name for name in known if name.startswith(f"{PAPER}/")]


def find(name: str) -> Path:
    """The file of a name; `zoo/NAME.yaml` is understood too, so that a command reads the same in any folder.

    Raises: UserError with the nearest name, that of a file beside the one that was meant included.
    """
    plain = name.removeprefix("zoo/").removesuffix(SUFFIX)
    known = names()
    if plain not in known:
        files = [str(file) for file in Path(name).parent.glob(f"*{SUFFIX}")] if name.endswith(SUFFIX) else []
        close = nearest(name, files) or nearest(plain, known)
        hint = f"did you mean {close!r}?" if close is not None else "`codetr zoo list` prints the names"
        raise UserError(f"no file and no zoo spec is called {name!r}; {hint}")
    return root() / f"{plain}{SUFFIX}"


def docstring(file: Path) -> str:
    """The leading comment block of a spec: what it is, its row of the paper, its AP. Empty if there is none."""
    lines: list[str] = []
    with file.open(encoding="utf-8") as text:
        for line in text:
            if not line.startswith("#"):
                break
            lines.append(line.lstrip("#").strip())
    return "\n".join(lines).strip()


def recipe(name: str) -> Recipe:
    """What a spec of the zoo says of itself."""
    first, *further = docstring(find(name)).split("\n")
    measured = next(
        (Measured(float(m["ap"]), m["dataset"]) for line in further if (m := _MEASURED.fullmatch(line))), None
    )
    published = _PUBLISHED.fullmatch(first)
    if published is None:
        return Recipe(name, first.removesuffix("."), measured=measured)
    row = _ROW.fullmatch(published["what"])
    place = row and Row(row["table"], row["method"], int(row["k"]), int(row["epochs"]), row["detail"] or "")
    return Recipe(name, published["what"], float(published["ap"]), place, measured)
