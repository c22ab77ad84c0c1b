"""Whole or absent, also when the process dies in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from codetr.engine.files import recovered_folder, replaced_folder, write_text


def filled(folder: Path, text: str) -> Path:
    with replaced_folder(folder) as fresh:
        (fresh / "file").write_text(text)
    return folder


def test_a_folder_is_replaced_whole(tmp_path: Path) -> None:
    folder = filled(tmp_path / "last", "old")
    (folder / "leftover").touch()
    filled(folder, "new")
    assert [(file.name, file.read_text()) for file in folder.iterdir()] == [("file", "new")]
    assert list(tmp_path.iterdir()) == [folder]


def test_an_exception_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = filled(tmp_path / "last", "old")
    with pytest.raises(KeyboardInterrupt), replaced_folder(folder) as fresh:
        (fresh / "file").write_text("half")
        raise KeyboardInterrupt
    assert (folder / "file").read_text() == "old"
    assert list(tmp_path.iterdir()) == [folder]


def test_death_while_writing_leaves_the_old_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = filled(tmp_path / "last", "old")
    (tmp_path / ".last.writing").mkdir()
    (tmp_path / ".last.writing" / "half").touch()
    assert (recovered_folder(folder) / "file").read_text() == "old"
    assert [file.name for file in filled(folder, "new").iterdir()] == ["file"]


def test_death_between_the_renames_is_recovered_from(tmp_path: Path) -> None:
    folder = filled(tmp_path / "last", "old")
    folder.rename(tmp_path / ".last.old")
    assert (recovered_folder(folder) / "file").read_text() == "old"
    folder.rename(tmp_path / ".last.old")
    assert (filled(folder, "new") / "file").read_text() == "new"
    assert list(tmp_path.iterdir()) == [folder]


def test_a_text_is_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "old")
    write_text(tmp_path / "file", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("file", "new")]
