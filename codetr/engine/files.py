"""Files that are whole or absent: written beside their place, flushed to disk, then renamed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Replace a file in one move."""
    with replaced_file(path) as fresh:
        fresh.write_text(text, encoding="utf-8")


@contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield the path of a file to write, which then takes the place of `path`; a failure leaves `path` as it is."""
    fresh = path.with_name(f".{path.name}.writing")
    try:
        yield fresh
    except BaseException:
        fresh.unlink(missing_ok=True)
        raise
    _flush(fresh)
    os.replace(fresh, path)


@contextmanager
def replaced_folder(folder: Path) -> Iterator[Path]:
    """Yield an empty folder to fill, which then takes the place of `folder`.

    Should the process die between the two renames, the old folder lies beside its place under the name that
    `recovered_folder` looks for. An exception inside the block leaves the old folder as it is.
    """
    fresh, old = folder.with_name(f".{folder.name}.writing"), _set_aside(recovered_folder(folder))
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh)
        raise
    for file in [*fresh.rglob("*"), fresh]:
        _flush(file)
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    _flush(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recovered_folder(folder: Path) -> Path:
    """The folder itself, put back into its place first if a replacement was cut off between its two renames."""
    old = _set_aside(folder)
    if not folder.exists() and old.exists():
        old.rename(folder)
    return folder


def _set_aside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.old")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
