"""The proof of exact resuming: what counts as a difference, and a run that is really killed."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

import pytest
import torch
from ranks import SPEC, write_data
from rich.console import Console

from codetr.engine.checkpoint import Meta, save_checkpoint
from codetr.engine.verify_resume import compare, verify_resume
from codetr.errors import UserError

META = Meta(("cat",), (7,), {})
NAN = float("nan")


@pytest.mark.parametrize(
    ("weights", "state", "differing"),
    [
        ({"a": [1.0, NAN], "b": [0.0]}, {"m": [2.0]}, ()),  # the same bits, though no number equals itself
        ({"a": [1.0, NAN], "b": [-0.0]}, {"m": [2.0]}, ("b",)),  # equal numbers, other bits
        ({"a": [1.0, NAN], "b": [0.0]}, {"m": [2.0000002]}, ("state: m",)),
        ({"a": [1.0, NAN], "b": [0.0]}, {"n": [2.0]}, ("state: m", "state: n")),
        ({"a": [1.0, NAN], "b": [0.0, 0.0]}, {"m": [2.0]}, ("b",)),
    ],
)
def test_every_bit_counts(
    tmp_path: Path, weights: dict[str, list[float]], state: dict[str, list[float]], differing: tuple[str, ...]
) -> None:
    first = {"a": torch.tensor([1.0, NAN]), "b": torch.zeros(1)}
    save_checkpoint(tmp_path / "one", first, META, state={"m": torch.tensor([2.0])})
    tensors = [{name: torch.tensor(value) for name, value in part.items()} for part in (weights, state)]
    save_checkpoint(tmp_path / "other", tensors[0], META, state=tensors[1])
    assert compare(tmp_path / "one", tmp_path / "other").differing == differing


def verified(place: Path, *overrides: str, steps: int) -> tuple[bool, list[str]]:
    (place / "tiny.yaml").write_text(SPEC)
    data = write_data(place / "data", (1, 3, 2, 0, 2, 3))
    console = Console(file=StringIO(), width=200)
    same = verify_resume([str(place / "tiny.yaml"), f"data={data}", *overrides], steps=steps, console=console)
    return same, console.file.getvalue().splitlines()  # type: ignore[attr-defined]


def test_a_killed_run_ends_the_same(tmp_path: Path) -> None:
    """Killed in the middle of the second epoch, with loader processes and an average."""
    settings = ("heads={atss: {}}", "train.ema={}", "train.epochs=50", "data.workers=1")
    same, lines = verified(tmp_path, *settings, steps=8)
    assert same
    assert lines[0] == "training 8 steps without a stop" and lines[1] == "training again, to be killed after step 4"
    assert lines[2].startswith("killed after step ") and lines[2].endswith("; resuming from step 4")
    assert lines[3].startswith("identical: all ") and lines[3].endswith("bit for bit, after step 8")


def test_what_cannot_be_verified(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs 2 steps at least"):
        verify_resume(["tiny"], steps=1, console=Console(file=StringIO()))
    with pytest.raises(UserError, match=r"failed \(exit code 2\):\nerror: no file and no zoo spec is called"):
        verify_resume([str(tmp_path / "nothing.yaml")], steps=None, console=Console(file=StringIO()))
