"""Optional packages."""

from __future__ import annotations

from codetr.doctor.extras import EXTRAS, judge_extras


def test_all_of_them() -> None:
    assert judge_extras(lambda name: "1.0").verdict == "ok"


def test_some_of_them() -> None:
    row = judge_extras(lambda name: None if name in ("matplotlib", "tensorboard") else "1.0")
    assert row.verdict == "note"
    assert row.found.startswith("simplejpeg 1.0, transformers 1.0; not installed: matplotlib (charts of benchmarks)")
    assert row.fix.endswith("pip install matplotlib tensorboard")


def test_none_of_them() -> None:
    assert judge_extras(lambda name: None).found.startswith("none installed; not installed: ")


def test_they_are_extras_of_the_package(root) -> None:
    text = (root / "pyproject.toml").read_text()
    assert all(f'"{name}>=' in text for name in EXTRAS)
