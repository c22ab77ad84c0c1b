"""JSON files: read with a message that a user can act on, written whole or not at all."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from codetr.engine.files import write_text
from codetr.errors import UserError


def read_json(file: Path, *, what: str) -> Any:
    """Parse a JSON file. `what` names its role in messages.

    Raises:
        UserError: the file is missing, unreadable or no JSON.
    """
    try:
        content = file.read_bytes()
        with _uncollected():
            return json.loads(content)
    except FileNotFoundError:
        raise UserError(f"{file}: there is no such {what}. Check the path.") from None
    except OSError as error:
        raise UserError(f"{file}: this {what} cannot be read: {error.strerror}.") from error
    except json.JSONDecodeError as error:
        place = f"{file}:{error.lineno}:{error.colno}"
        raise UserError(
            f"{place}: this {what} is not valid JSON ({error.msg}). The file may be cut off; write or copy it again."
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: this {what} is not a text file. A COCO file is JSON in UTF-8.") from error


@contextmanager
def _uncollected() -> Iterator[None]:
    """Without the search for cycles, of which JSON has none and which takes half of the time of a large file."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def write_json(file: Path, content: Any, *, indent: int | None = None) -> None:
    """Write `content` in one move, making the folder if need be.

    Raises:
        UserError: the file cannot be written there.
    """
    text = json.dumps(content, indent=indent)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, f"{text}\n")
    except OSError as error:
        raise UserError(f"{file}: cannot be written: {error.strerror}. Name a file in a folder of yours.") from error
