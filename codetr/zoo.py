"""Where the shipped specs are: in an installed package inside it, in a checkout beside it."""

from __future__ import annotations

from pathlib import Path

from codetr.errors import UserError, nearest, suggestion

SUFFIX = ".yaml"


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
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob(f"*{SUFFIX}"))


def recipes() -> list[str]:
    """The names that can be trained as they are: those at the top, then those of the paper's tables in `paper/`."""
    known = names()
    return [name for name in known if "/" not in name] + [name for name in known if name.startswith("paper/")]


def find(name: str) -> Path:
    """The file of a name; `zoo/NAME.yaml` is understood too, so that a command reads the same in any folder.

    Raises: UserError with the nearest name, that of a file beside the one that was meant included.
    """
    plain = name.removeprefix("zoo/").removesuffix(SUFFIX)
    known = names()
    if plain not in known:
        files = [str(file) for file in Path(name).parent.glob(f"*{SUFFIX}")] if name.endswith(SUFFIX) else []
        close = nearest(name, files)
        hint = suggestion(plain, known, kind="names") if close is None else f"did you mean {close!r}?"
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
