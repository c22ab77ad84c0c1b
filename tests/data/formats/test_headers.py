from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from codetr.data.formats import headers
from codetr.data.formats.headers import Header, read_headers

Picture = Callable[..., Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(headers, "REMEMBERED_FROM", 1)
    return tmp_path / "cache/codetr/headers"


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose header is read."""
    names: list[str] = []
    read = headers.image_size

    def count(path: Path) -> tuple[int, int]:
        names.append(path.name)
        return read(path)

    monkeypatch.setattr(headers, "image_size", count)
    return names


def test_sizes_orientations_and_what_is_no_image(tmp_path: Path, picture: Picture) -> None:
    picture(tmp_path / "a.jpg", 40, 30)
    picture(tmp_path / "in/b.png", 7, 9, orientation=6)
    (tmp_path / "text.jpg").write_text("hello")
    names = ["in/b.png", "text.jpg", "absent.jpg", "a.jpg"]
    assert read_headers(tmp_path, names) == [Header(9, 7, 6), None, None, Header(30, 40, 1)]


def test_a_header_is_read_once_until_its_file_changes(
    tmp_path: Path, picture: Picture, cache: Path, reads: list[str]
) -> None:
    folder = tmp_path / "set"
    picture(folder / "a.jpg", 40, 30)
    picture(folder / "b.jpg", 20, 10)
    wanted = [Header(30, 40, 1), Header(10, 20, 1)]
    assert read_headers(folder, ["a.jpg", "b.jpg"]) == wanted
    assert read_headers(folder, ["a.jpg", "b.jpg"]) == wanted
    assert sorted(reads) == ["a.jpg", "b.jpg"]
    picture(folder / "b.jpg", 50, 60)
    os.utime(folder / "b.jpg", ns=(1, 1))
    assert read_headers(folder, ["b.jpg"]) == [Header(60, 50, 1)]
    assert read_headers(folder, ["a.jpg", "b.jpg"]) == [Header(30, 40, 1), Header(60, 50, 1)]
    assert sorted(reads) == ["a.jpg", "b.jpg", "b.jpg"]
    assert [path.suffix for path in cache.iterdir()] == [".json"]  # one file for the folder, nothing left over


@pytest.mark.parametrize("content", ["", "[1]", '{"a.jpg": [1, 2]}', '{"a.jpg": "x"}', "{"])
def test_a_damaged_cache_is_made_anew(
    tmp_path: Path, picture: Picture, cache: Path, reads: list[str], content: str
) -> None:
    picture(tmp_path / "set/a.jpg")
    read_headers(tmp_path / "set", ["a.jpg"])
    (file,) = cache.iterdir()
    file.write_text(content)
    assert read_headers(tmp_path / "set", ["a.jpg"]) == [Header(30, 40, 1)]
    assert reads == ["a.jpg", "a.jpg"]
    assert list(json.loads(file.read_text())) == ["a.jpg"]


def test_without_a_place_for_the_cache(tmp_path: Path, picture: Picture, cache: Path) -> None:
    picture(tmp_path / "set/a.jpg")
    cache.parent.parent.mkdir()
    cache.parent.write_text("a file where the folder would be")
    assert read_headers(tmp_path / "set", ["a.jpg"]) == [Header(30, 40, 1)]


def test_few_images_leave_no_cache(tmp_path: Path, picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    picture(tmp_path / "set/a.jpg")
    read_headers(tmp_path / "set", ["a.jpg"])
    assert not (tmp_path / "cache").exists()
