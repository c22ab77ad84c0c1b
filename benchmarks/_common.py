"""What every result records: hardware, versions, command, commit."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"
_PACKAGES = ("codetr", "torch", "torchvision", "triton", "timm", "numpy", "scipy", "hotcoco", "pycocotools")


def environment() -> dict[str, Any]:
    """Where and with what a benchmark ran."""
    git = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    changes = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True, check=False
    )
    return {
        "hardware": torch.cuda.get_device_name() if torch.cuda.is_available() else _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "command": " ".join(["python", *sys.argv]),
        "commit": git.stdout.strip() + (" with changes" if changes.stdout.strip() else ""),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor() or platform.machine()} (CPU)"


def write(name: str, record: dict[str, Any], table: str) -> None:
    """results/NAME.json with everything, results/NAME.md with the table and where it comes from."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    env = record["environment"]
    versions = ", ".join(f"{package} {version}" for package, version in env["packages"].items())
    source = (
        f"\n- hardware: {env['hardware']}, {env['cores']} cores\n- versions: Python {env['python']}, {versions}\n"
        f"- command: `{env['command']}`\n- commit: {env['commit']}\n"
    )
    (RESULTS / f"{name}.md").write_text(table + source)
    print(table + source)
