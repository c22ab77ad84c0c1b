"""The speed of decoding."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from codetr.doctor import images
from codetr.doctor.images import check_images, judge_images, rate


def test_judged_by_the_faster_one() -> None:
    row = judge_images({"Pillow": 800.4, "simplejpeg": 1500.0})
    assert (row.verdict, row.fix) == ("ok", "")
    assert row.found == "JPEG files of 480 x 640 a second on one core: Pillow 800, simplejpeg 1500"
    assert judge_images({"Pillow": 100.0, "simplejpeg": 200.0}).verdict == "ok"
    row = judge_images({"Pillow": 20.0, "simplejpeg": 40.0})
    assert row.verdict == "warning"
    assert "slow" in row.found


def test_simplejpeg_is_recommended() -> None:
    row = judge_images({"Pillow": 800.0})
    assert row.verdict == "note"
    assert row.fix.endswith("pip install simplejpeg")


def test_pictures_are_written_and_removed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    seen: list[tuple[str | None, tuple[int, int], int]] = []

    def note(decode: object, files: list[Path]) -> float:
        for file in files:
            content = file.read_bytes()
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                seen.append((image.format, image.size, len(content)))
        return 1000.0

    monkeypatch.setattr(images, "rate", note)
    monkeypatch.setattr(images.tempfile, "tempdir", str(tmp_path))
    (row,) = check_images()
    assert row.verdict in ("ok", "note")
    assert {(kind, size) for kind, size, _ in seen} == {("JPEG", (640, 480))}
    assert all(20_000 < length < 200_000 for _, _, length in seen)
    assert list(tmp_path.iterdir()) == []


def test_the_rate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A clock that gains a tenth of a second at each look: four decodings in 0.4 s, after one round that is not
    counted."""
    file = tmp_path / "x"
    file.write_bytes(b"x")
    looks = iter(range(100))
    monkeypatch.setattr(images.time, "perf_counter", lambda: next(looks) / 10)
    decoded: list[bytes] = []
    # Looks at 0 (begin), 0.1, 0.2, 0.3 (go on), 0.4 (stop), 0.5 (end): three in half a second.
    assert rate(decoded.append, [file]) == pytest.approx(6.0)
    assert decoded == [b"x"] * 4


def test_both_decoders_give_the_pixels(tmp_path: Path) -> None:
    pytest.importorskip("simplejpeg")
    (file, *_) = images._written(tmp_path)
    pillow, simple = images._with_pillow(file.read_bytes()), images._with_simplejpeg(file.read_bytes())
    assert pillow.shape == simple.shape == (480, 640, 3)
