"""Where runs lie and how they are found."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from codetr.engine.checkpoint import Meta, save_checkpoint
from codetr.engine.run_folder import RunFolder, find_checkpoint, find_run, new_run
from codetr.errors import UserError


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def started(name: str, *, age: int = 0, checkpoints: tuple[str, ...] = ()) -> RunFolder:
    run = RunFolder(Path("runs", name))
    run.describe(spec="base: {}\n", command=["codetr", "train", "a spec"])
    for checkpoint in checkpoints:
        save_checkpoint(run.path / "checkpoints" / checkpoint, {"a": torch.ones(1)}, Meta(("cat",), (1,), {}))
    for file in run.path.rglob("*"):
        os.utime(file, (1_000_000 - age, 1_000_000 - age))
    return run


def test_a_run_describes_itself() -> None:
    run = started("tiny")
    run.describe(spec="base: {}\n", command=["codetr", "train", "--resume"])
    assert run.spec.read_text() == "base: {}\n"
    assert (run.path / "command.txt").read_text() == "codetr train 'a spec'\ncodetr train --resume\n"
    environment = json.loads((run.path / "environment.json").read_text())
    assert environment["torch"] == torch.__version__
    assert environment["packages"]["torch"] and {"python", "cuda", "commit", "gpu"} <= environment.keys()


def test_new_runs_never_take_the_place_of_old_ones() -> None:
    assert new_run("tiny").path == Path("runs/tiny")
    started("tiny")
    assert new_run("tiny").path == Path("runs/tiny-2")
    started("tiny-2")
    started("tiny-large")
    assert new_run("tiny").path == Path("runs/tiny-3")


def test_out_must_be_free() -> None:
    assert new_run("tiny", out=Path("mine")).path == Path("mine")
    Path("mine").mkdir()
    assert new_run("tiny", out=Path("mine")).path == Path("mine")
    Path("mine", ".spec.yaml.writing").touch()  # of a run that was killed in its first moment
    assert new_run("tiny", out=Path("mine")).path == Path("mine")
    Path("mine", "file").touch()
    with pytest.raises(UserError, match=r"--out mine: .*codetr train --resume mine"):
        new_run("tiny", out=Path("mine"))


def test_a_folder_that_cannot_be_made() -> None:
    Path("file").touch()
    with pytest.raises(UserError, match=r"file/run: the run's folder cannot be made"):
        RunFolder(Path("file/run")).describe(spec="", command=[])


def test_the_newest_run_is_found() -> None:
    with pytest.raises(UserError, match=r"no run found.*no runs in runs/ yet"):
        find_run()
    started("old", age=10)
    started("tiny-2", age=5)
    started("tiny-large", age=3)
    assert find_run().path == Path("runs/tiny-large")
    assert find_run(name="tiny").path == Path("runs/tiny-2")
    assert find_run(Path("runs/old")).path == Path("runs/old")
    with pytest.raises(UserError, match=r"no run of 'other'.*Newest runs: runs/tiny-large, runs/tiny-2, runs/old"):
        find_run(name="other")
    with pytest.raises(UserError, match=r"runs: this is no run: it has no spec\.yaml"):
        find_run(Path("runs"))


def test_a_run_stands_for_its_best_checkpoint_else_its_last() -> None:
    started("none", age=20)
    started("last", age=10, checkpoints=("step_00000020", "step_00000100"))
    started("both", checkpoints=("step_00000020", "best"))
    assert find_checkpoint() == Path("runs/both/checkpoints/best")
    assert find_checkpoint(Path("runs/last")) == Path("runs/last/checkpoints/step_00000100")
    assert find_checkpoint(Path("runs/both/checkpoints/step_00000020")) == Path("runs/both/checkpoints/step_00000020")
    file = Path("runs/last/checkpoints/step_00000020/model.safetensors")
    assert find_checkpoint(file) == file
    with pytest.raises(UserError, match="runs/none: the run has no checkpoint yet"):
        find_checkpoint(Path("runs/none"))
    with pytest.raises(UserError, match="nowhere: there is no such run or checkpoint"):
        find_checkpoint(Path("nowhere"))


def test_a_checkpoint_whose_replacement_was_cut_off_is_found() -> None:
    run = started("tiny", checkpoints=("best",))
    run.best.rename(run.path / "checkpoints" / ".best.old")
    assert find_checkpoint(run.path) == run.path / "checkpoints" / "best"


def test_checkpoints_come_in_the_order_of_steps_and_half_written_ones_do_not_count() -> None:
    names = (".step_00000030.writing", "step_00000020.aside", "step_00000009", "step_100000000", "step_00000010")
    run = started("tiny", checkpoints=names)
    assert [folder.name for folder in run.steps] == ["step_00000009", "step_00000010", "step_100000000"]
    assert run.last == run.checkpoint(100_000_000)
    assert not started("none").last.exists()
