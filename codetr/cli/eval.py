"""`codetr eval`: the figures of a checkpoint on a data set, or of a results file, and submissions to servers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from codetr.cli.eval_report import Report, report

if TYPE_CHECKING:
    from codetr.evaluation.evaluators import Evaluator, Protocol
    from codetr.evaluation.results import IouType

PROTOCOLS: dict[str, Protocol] = {"coco": "coco", "lvis": "lvis", "objects365": "coco"}
"""Known data sets, and whose rules they are scored by."""


@click.command("eval")
@click.argument("arguments", nargs=-1, metavar="[RUN|CKPT|SPEC] [KEY=VALUE]...")
@click.option("--dataset", metavar="NAME|DIR", help="coco, lvis, objects365 or a folder [the data trained on].")
@click.option("--annotations", type=Path, metavar="FILE", help="Images of this file; or what --predictions belongs to.")
@click.option("--images", type=Path, metavar="DIR", help="Image folder of --annotations, if it does not lie beside it.")
@click.option("--branch", metavar="NAME", help="Evaluate a head on its own, e.g. atss; detr is the matched branch.")
@click.option("--predictions", type=Path, metavar="FILE", help="Score a COCO results file instead of a model.")
@click.option("--iou-type", type=click.Choice(["bbox", "segm"]), help="Boxes or masks alone [what there is].")
@click.option("--protocol", type=click.Choice(["coco", "lvis"]), help="Whose rules [those of the data set].")
@click.option("--max-detections", type=click.IntRange(min=1), metavar="N", help="Detections counted [100; LVIS: 300].")
@click.option("--fixed-ap", is_flag=True, help="LVIS's fixed AP: 10,000 detections of a class, any number in an image.")
@click.option("--class-agnostic", is_flag=True, help="Match detections with objects of any class.")
@click.option("--tta", is_flag=True, help="Several sizes and mirrored, fused: eval.test_time={} if the spec has none.")
@click.option(
    "--submission", type=Path, metavar="FILE", help="Write a .json or .zip file for the server of COCO or LVIS."
)
@click.option("--evaluator", type=click.Choice(["hotcoco", "pycocotools"]), help="Library; both give the same figures.")
@click.option("--device", help="auto (the default), cpu, cuda or cuda:N.")
@click.option("--per-class", is_flag=True, help="Print the figures of each class as well.")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write all figures to a JSON file.")
def command(
    arguments: tuple[str, ...],
    dataset: str | None,
    annotations: Path | None,
    images: Path | None,
    branch: str | None,
    predictions: Path | None,
    iou_type: Literal["bbox", "segm"] | None,
    protocol: Literal["coco", "lvis"] | None,
    max_detections: int | None,
    fixed_ap: bool,
    class_agnostic: bool,
    tta: bool,
    submission: Path | None,
    evaluator: str | None,
    device: str | None,
    per_class: bool,
    json_file: Path | None,
) -> None:
    """Print the figures of a model, or of a results file.

    A run's folder, a checkpoint or a spec names the model; without one it is the newest run under runs/. KEY=VALUE
    changes settings of its spec, e.g. data=DIR. On a data set with other classes they are matched by name, and the
    figures are given over all classes and over those that the model knows. To score results instead:

    \b
        codetr eval --predictions results.json --annotations instances_val.json

    For the test server of COCO, or of LVIS with its files:

    \b
        codetr eval RUN --annotations image_info_test-dev2017.json --images test2017 --submission mine.zip
    """
    if predictions is None:
        _refuse({"--class-agnostic": class_agnostic}, "only with --predictions")
        if annotations is None:
            _refuse({"--images": images}, "only with --annotations")
        elif dataset is not None:
            raise click.UsageError("--dataset and --annotations both name images; leave out one of them")
        changes = {"branch": branch, "max_detections": max_detections, "protocol": protocol, "evaluator": evaluator}
        found = _evaluate_model(
            arguments,
            source=dataset if annotations is None else (annotations, images),
            changes={key: value for key, value in changes.items() if value is not None},
            iou_type=iou_type,
            fixed=fixed_ap,
            tta=tta,
            submission=submission,
            device=device or "auto",
        )
    else:
        only_model: dict[str, object] = {"--branch": branch, "--device": device, "--images": images, "--tta": tta}
        only_model |= {"--submission": submission, " ".join(arguments): arguments}
        _refuse(only_model, "only for a model, not with --predictions")
        if annotations is None:
            raise click.UsageError("--predictions needs the annotation file that it belongs to: --annotations FILE")
        if per_class and class_agnostic:
            raise click.UsageError("--per-class has nothing to show with --class-agnostic; leave out one of them")
        found = _score_file(
            predictions,
            annotations,
            iou_type=iou_type or "bbox",
            protocol=protocol or _protocol_of(dataset) or ("coco" if class_agnostic else None),
            class_agnostic=class_agnostic,
            max_detections=max_detections,
            fixed=fixed_ap,
            evaluator=evaluator or "hotcoco",
        )
    report(found, per_class=per_class, json_file=json_file)


def _refuse(options: Mapping[str, object], case: str) -> None:
    """A setting without effect is an error."""
    given = [name for name, value in options.items() if value]
    if given:
        raise click.UsageError(f"{' and '.join(given)}: {case}")


def _protocol_of(dataset: str | None) -> Protocol | None:
    """Of a results file there is nothing to be found in a data set, but it says by whose rules to score."""
    if dataset is None:
        return None
    if dataset.lower() not in PROTOCOLS:
        raise click.UsageError(
            f"--dataset {dataset}: with --predictions it says by whose rules to score: {', '.join(PROTOCOLS)}"
        )
    return PROTOCOLS[dataset.lower()]


def _score_file(
    predictions: Path,
    annotations: Path,
    *,
    iou_type: IouType,
    protocol: Protocol | None,
    class_agnostic: bool,
    max_detections: int | None,
    fixed: bool,
    evaluator: str,
) -> Report:
    from codetr.evaluation.evaluators import Rules, score
    from codetr.evaluation.results import read_results
    from codetr.evaluation.truth import GroundTruth

    library = _open_evaluator(evaluator)
    truth = GroundTruth.load(annotations)
    chosen = protocol or ("lvis" if truth.is_federated else "coco")
    rules = Rules(iou_type, max_detections, class_agnostic=class_agnostic, protocol=chosen, fixed=fixed)
    figures = score(truth, read_results(predictions, iou_type=iou_type), evaluator=library, rules=rules)
    settings = {
        "predictions": str(predictions),
        "annotations": str(annotations),
        "iou_type": iou_type,
        "protocol": rules.protocol,
        "class_agnostic": class_agnostic,
        "max_detections": rules.limit,
        "fixed_ap": fixed,
        "evaluator": library.name,
    }
    return Report(str(predictions), {iou_type: figures}, settings)


def _evaluate_model(
    arguments: tuple[str, ...],
    *,
    source: str | tuple[Path, Path | None] | None,
    changes: Mapping[str, Any],
    iou_type: IouType | None,
    fixed: bool,
    tta: bool,
    submission: Path | None,
    device: str,
) -> Report:
    targets = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    if len(targets) > 1:
        raise click.UsageError(f"one run, checkpoint or spec at a time, not {', '.join(targets)}")
    overrides = [argument for argument in arguments if argument not in targets]

    from codetr.api import load_detector
    from codetr.engine.run_folder import find_run
    from codetr.evaluation.dataset import dataset_named, evaluate_split, from_files
    from codetr.evaluation.test_time_config import TestTime

    named = targets[0] if targets else str(find_run().path)
    detector = load_detector(named, device=device).configured(overrides)
    settings, data = detector.spec.eval.model_copy(update=dict(changes)), detector.spec.data
    if tta and settings.test_time is None:
        settings = settings.model_copy(update={"test_time": TestTime()})
    if isinstance(source, str):
        data = dataset_named(data, source)
    elif source is not None:
        data = from_files(data, *source)
    library = _open_evaluator(settings.evaluator)
    with _progress() as start:
        found = evaluate_split(
            detector.model,
            classes=detector.classes,
            category_ids=detector.category_ids,
            data=data,
            settings=settings,
            iou_type=iou_type,
            fixed=fixed,
            submission=submission,
            evaluator=library,
            device=detector.device,
            start=start,
        )
    rules = found.rules[0]
    used = {
        "model": named,
        "data": None if data.dir is None else str(data.dir),
        "annotations": str(found.annotations),
        **settings.model_dump(mode="json"),
        "evaluator": library.name,
        "iou_type": " ".join(one.iou_type for one in found.rules),
        "protocol": rules.protocol,
        "max_detections": rules.limit,
        "fixed_ap": fixed,
    }
    return Report(named, found.figures, used, evaluation=found)


def _open_evaluator(name: str) -> Evaluator:
    from codetr.evaluation.evaluators import open_evaluator

    return open_evaluator(name, announce=lambda message: click.echo(f"warning: {message}", err=True))


@contextmanager
def _progress() -> Iterator[Callable[[int], Callable[[int], None]]]:
    """A bar on the terminal: yields what takes the number of images and returns what takes those done."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("evaluating"), BarColumn(), MofNCompleteColumn(), TextColumn("images"), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:

        def start(total: int) -> Callable[[int], None]:
            task = bar.add_task("evaluating", total=total)
            return lambda done: bar.advance(task, done)

        yield start
