"""`codetr launch`: a file that `sbatch` takes, or one message."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from codetr.cli.main import main


def test_a_file_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    line = ["launch", "--slurm", "co_dino_5scale_r50", "data=my data", "--nodes", "2", "--gpus", "4", "--requeue"]
    assert main([*line, "--time", "10:00:00", "--sbatch=--constraint=a100"]) == 0
    assert "co_dino_5scale_r50.sbatch: 2 x 4 GPUs. Submit it: sbatch co_dino" in capsys.readouterr().out
    text = (tmp_path / "co_dino_5scale_r50.sbatch").read_text()
    for expected in (
        "#SBATCH --cpus-per-task=32\n",
        "#SBATCH --time=10:00:00\n",
        "#SBATCH --constraint=a100\n",
        "#SBATCH --requeue\n",
        "train co_dino_5scale_r50 'data=my data' --gpus 4 --max-restarts 3 --nodes 2 ",
        'run=runs/co_dino_5scale_r50-"$SLURM_JOB_ID"\n',
    ):
        assert expected in text
    subprocess.run(["bash", "-n"], input=text, text=True, check=True)
    assert main([*line, "-o", "job", "--cpus", "12", "--out", "a b"]) == 0
    assert "--cpus-per-task=12\n" in Path("job").read_text() and "run='a b'-" in Path("job").read_text()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("co_dino_5scale_r50 --gpus 4", "--slurm"),
        ("--slurm data=D --gpus 4", "name a spec"),
        ("--slurm co_dino_5scale_r50 data=D", "--gpus"),
        ("--slurm co_dino_5scale_r50 data=D --gpus 3", "use 15 or 18"),
        ("--slurm co_dino_5scale_r50 data=D --gpus 4 --sbatch constraint=a100", "no option of sbatch"),
        ("--slurm co_dino_5scale_r50 data=D --gpus 4 -o no/where", "no/where: cannot be written"),
        ("--slurm co_dino_5scale_r50 data=D train.lrr=1 --gpus 4", "did you mean"),
    ],
)
def test_mistakes(
    line: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["launch", *line.split()]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
