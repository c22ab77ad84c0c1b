"""`codetr bench eval`: images per second of detection, and the seconds of its scoring."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from codetr.bench.evaluation.subjects import Subject
    from codetr.prediction import Detector

BATCHES = (1, 4)
PEERS = ("transformers", "pycocotools")


@click.command("eval")
@click.argument("arguments", nargs=-1, metavar="[RUN|CKPT|SPEC] [KEY=VALUE]...")
@click.option(
    "--images", type=click.IntRange(min=1), default=16, show_default=True, help="Images that are detected in."
)
@click.option(
    "--pictures",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    metavar="DIR",
    help="Take these [rendered ones].",
)
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(min=1),
    multiple=True,
    metavar="N",
    help="Batch size; may come again [1, 4].",
)
@click.option(
    "--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Counted runs of each over all images."
)
@click.option("--workers", type=click.IntRange(min=1), metavar="N", help="Threads that read images [one a core, 8].")
@click.option(
    "--scored",
    type=click.IntRange(min=0),
    default=5000,
    show_default=True,
    help="Images of the results that are scored; 0 leaves it out.",
)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), help="eval.precision.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")
@click.option("--peer", "peers", type=click.Choice(PEERS), multiple=True, help="Measure it too; may come again.")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write everything to a JSON file.")
def command(
    arguments: tuple[str, ...],
    images: int,
    pictures: Path | None,
    batches: tuple[int, ...],
    rounds: int,
    workers: int | None,
    scored: int,
    precision: str | None,
    device: str,
    peers: tuple[str, ...],
    json_file: Path | None,
) -> None:
    """Time detection from image files to boxes by its parts, and the scoring of a COCO-sized results set.

    The detector is that of a run or checkpoint (by default the newest run), or of a spec with fresh weights. Beside it
    comes the loop that detects in one image after the other. KEY=VALUE changes settings, e.g. eval.test_time={}.
    """
    targets = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    if len(targets) > 1:
        raise click.UsageError(f"one run, checkpoint or spec at a time, not {', '.join(targets)}")
    overrides = [argument for argument in arguments if argument not in targets]
    if precision is not None:
        overrides.append(f"eval.precision={precision}")
    detector = _detector(targets[0] if targets else None, overrides, device)
    with tempfile.TemporaryDirectory() as folder:
        _measure(
            targets[0] if targets else "the newest run",
            detector,
            _files(pictures, images, Path(folder)),
            batches=batches or BATCHES,
            rounds=rounds,
            workers=workers,
            scored=scored,
            peers=peers,
            json_file=json_file,
        )


def _detector(source: str | None, overrides: list[str], device: str) -> Detector:
    from codetr.api import build, load_detector
    from codetr.data.coco_classes import COCO_CLASSES
    from codetr.engine.distributed import choose_device
    from codetr.prediction import Detector
    from codetr.spec import load_spec

    if source is None or (Path(source).exists() and Path(source).suffix not in (".yaml", ".yml")):
        return load_detector(source, device=device).configured(overrides)
    spec, where = load_spec(source, overrides), choose_device(device)
    model = build(source, classes=len(COCO_CLASSES), overrides=overrides).to(where)
    return Detector(model.eval(), COCO_CLASSES, tuple(range(1, len(COCO_CLASSES) + 1)), spec, where)


def _files(pictures: Path | None, count: int, folder: Path) -> list[Path]:
    from codetr.bench.evaluation.pictures import chosen, rendered

    return rendered(folder, count) if pictures is None else chosen(pictures, count)


def _measure(
    name: str,
    detector: Detector,
    files: list[Path],
    *,
    batches: tuple[int, ...],
    rounds: int,
    workers: int | None,
    scored: int,
    peers: tuple[str, ...],
    json_file: Path | None,
) -> None:
    from codetr.bench import report
    from codetr.bench.evaluation import measuring, scoring, tables
    from codetr.bench.evaluation.subjects import in_batches, one_by_one, transformers
    from codetr.bench.step.recorder import clock_of

    out = report.console()
    report.print_machine(out, detector.device)
    subjects: list[Subject] = [one_by_one(detector), *(in_batches(detector, size, workers) for size in batches)]
    if "transformers" in peers:
        subjects += [transformers(detector, size) for size in batches]
    with out.status("detecting"):
        results = measuring.measure(subjects, files, rounds=rounds, clock=clock_of(detector.device))
    tables.print_detection(out, results, title=_title(name, detector, len(files), rounds))
    evaluators = ["hotcoco", *(["pycocotools"] if "pycocotools" in peers else [])] if scored else []
    with out.status("scoring"):
        of_evaluators = [scoring.score_synthetic(evaluator, images=scored) for evaluator in evaluators]
    if of_evaluators:
        tables.print_scoring(out, of_evaluators)
    if json_file is not None:
        from codetr.evaluation.files import write_json

        found = {
            "machine": report.machine(detector.device),
            "spec": detector.spec.model_dump(mode="json"),
            "settings": {"images": len(files), "rounds": rounds, "workers": workers},
            "detection": [result.as_dict() for result in results],
            "scoring": [one.as_dict() for one in of_evaluators],
        }
        write_json(json_file, found, indent=2)


def _title(name: str, detector: Detector, images: int, rounds: int) -> str:
    several, resize = detector.spec.eval.test_time, detector.spec.data.resize
    size = f"short side {resize.size}, at most {resize.max_size}"
    if several is not None:
        size = f"{several.passes} passes, short sides {', '.join(map(str, several.scales))}, fused by {several.fusion}"
    return f"{name}: {images} images, {size}, {detector.spec.eval.precision}; median of {rounds} rounds"
