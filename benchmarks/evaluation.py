"""How fast are figures computed, and in how much memory? JSON files to AP, against the published evaluators.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --share 0.05          # files of a twentieth of the images, to try it out
    python benchmarks/evaluation.py --peers-python VENV/bin/python

Writes synthetic files of the size of COCO's validation set (5,000 images, 36,700 objects, 80 classes, 500,000
detections) and of LVIS's (19,809 images, 244,700 objects, 1,203 classes, 5.9 million detections), boxes only. Each
candidate reads and scores them in a process of its own, one after another; all must find the same AP and AP50. One that
takes more than `--limit` seconds or `--memory` GiB is given half of the images, and half of those, until it is done.
The peers are pycocotools, lvis, faster-coco-eval (pip install lvis faster-coco-eval) and hotcoco by itself, without
codetr's checks. Writes
benchmarks/results/evaluation.{json,md}. Memory is the largest resident set of the process, libraries included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import environment, write
from _evaluation_files import SIZES, Size, write_files

CANDIDATES = {
    "coco": ("codetr-hotcoco", "codetr-pycocotools", "hotcoco", "faster-coco-eval", "pycocotools"),
    "lvis": ("codetr-hotcoco", "codetr-pycocotools", "hotcoco", "faster-coco-eval", "lvis"),
}
LABELS = {"codetr-hotcoco": "codetr (hotcoco)", "codetr-pycocotools": "codetr (pycocotools)"}
SMALLEST = 1 / 64
CANDIDATE = Path(__file__).with_name("_evaluation_candidate.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="Of the images.")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--limit", type=float, default=600, metavar="SECONDS")
    parser.add_argument("--memory", type=float, default=16, metavar="GIB")
    parser.add_argument("--peers-python", default=sys.executable, help="Where the peers are installed.")
    parser.add_argument("--name", default="evaluation", help="Of the files of results.")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in options.sizes:
            files = Files(SIZES[kind].part(options.share), Path(folder) / kind)
            rows += [{"size": kind, **_run(kind, name, files, options)} for name in CANDIDATES[kind]]
    _assert_same_figures(rows)
    settings = {key: value for key, value in vars(options).items() if key != "name"}
    where = environment()
    for row in rows:
        where["packages"] |= row.pop("package", {})
    record = {"environment": where, "settings": settings, "rows": rows}
    write(options.name, record, _table(options, rows))


class Files:
    """The files of all images, and of fewer when they are asked for."""

    def __init__(self, size: Size, folder: Path) -> None:
        self.size, self.folder = size, folder

    def of(self, share: float) -> tuple[Size, Path, Path]:
        size, folder = self.size.part(share), self.folder / f"{share:.6f}"
        names = folder / "annotations.json", folder / "results.json"
        return size, *(names if names[1].exists() else write_files(size, folder))


def _run(kind: str, name: str, files: Files, options: argparse.Namespace) -> dict[str, Any]:
    """Seconds, memory and figures of the largest share of the images that the candidate can do."""
    share, failures = 1.0, []
    python = sys.executable if name.startswith("codetr") else options.peers_python
    while share >= SMALLEST:
        size, truth, found = files.of(share)
        print(f"{kind}: {name}, {size.images:,} images", flush=True)
        limits = [str(options.limit), str(options.memory)]
        command = [python, str(CANDIDATE), kind, name, str(truth), str(found), *limits]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode == 0:
            found_here = json.loads(done.stdout.splitlines()[-1])
            count = size.images * size.detections
            return {"name": name, "share": share, "images": size.images, "detections": count, **found_here} | {
                "failures": failures
            }
        if done.returncode != 3:
            raise SystemExit(f"{name}: {done.stderr}")
        failures.append({"share": share, "reason": done.stdout.splitlines()[-1]})
        print(f"  {failures[-1]['reason']}", flush=True)
        share /= 2
    return {"name": name, "share": None, "failures": failures}


def _assert_same_figures(rows: list[dict[str, Any]]) -> None:
    """Candidates that read the same files found the same, to nine decimals."""
    reference = {(row["size"], row["share"]): row for row in rows if row["name"] == "codetr-hotcoco"}
    for row in rows:
        expected = reference.get((row["size"], row["share"]))
        for key, value in row.get("figures", {}).items() if expected else ():
            assert abs(value - expected["figures"][key]) < 1e-9, (row, expected)


def _table(options: argparse.Namespace, rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Speed and memory of evaluation\n",
        "JSON files to figures, boxes, one process each; candidates that read the same files found the same AP and "
        f"AP50, to nine decimals. At most {options.limit:,.0f} s and {options.memory:g} GiB; who needs more gets half "
        "of the images.\n",
        "| files | evaluator | images | detections | seconds | CPU seconds | peak memory, MiB | AP | reading, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        label = f"{row['size'].upper()}-sized | {LABELS.get(row['name'], row['name'])}"
        if row["share"] is None:
            lines.append(f"| {label} | | | {row['failures'][-1]['reason']} | | | | |")
            continue
        part = "" if row["share"] == 1 else f" (1/{round(1 / row['share'])}: {row['failures'][-1]['reason']})"
        reading = f"{row['reading']:.1f}" if "reading" in row else ""
        lines.append(
            f"| {label} | {row['images']:,}{part} | {row['detections']:,} | {row['seconds']:.1f} | {row['cpu']:.1f} | "
            f"{row['peak'] / 2**20:,.0f} | {row['figures']['AP']:.6f} | {reading} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
