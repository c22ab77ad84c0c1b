"""The errors that are the user's to mend, the notices, and how they point at what was probably meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class UserError(Exception):
    """Something the user gave cannot be used. The command line prints the message alone and exits with code 2.

    The message says what is wrong and where (file and line, annotation id, dotted key), the nearest valid value if
    there is one, and what to do.
    """


class Notice(UserWarning):
    """Something the user should know although the work goes on. The command line prints the message alone."""


class ConfigError(UserError):
    """Settings that cannot be used. `problems` holds all of them, one line each."""

    def __init__(self, problems: Sequence[str], about: str = "the settings") -> None:
        self.problems = tuple(problems)
        heading = f"{len(self.problems)} errors in {about}:"
        super().__init__(self.problems[0] if len(self.problems) == 1 else "\n  ".join([heading, *self.problems]))


def nearest(word: str, options: Iterable[str]) -> str | None:
    """The option most like `word`, None if none is like it.

    A longer name that has the whole word as one of its parts counts as like it (`thr` does not reach `score_threshold`,
    `threshold` does).
    """
    known = list(options)
    close = difflib.get_close_matches(word.lower(), [option.lower() for option in known], n=1, cutoff=0.6)
    if close:
        return next(option for option in known if option.lower() == close[0])
    parts = [option for option in known if word.lower() in option.lower().replace("/", "_").split("_")]
    return min(parts, key=len, default=None)


def suggestion(word: str, options: Iterable[str], *, kind: str = "values") -> str:
    """What to write instead of `word`: the nearest option, else all of them; the end of an error message."""
    known = sorted(options)
    close = nearest(word, known)
    if close is not None:
        return f"did you mean {close!r}?"
    return f"valid {kind}: {', '.join(known)}" if known else f"there are no valid {kind}"
