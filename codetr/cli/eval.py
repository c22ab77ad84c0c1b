"""`codetr eval`: the COCO figures of a checkpoint on a data set, or of a results file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

if TYPE_CHECKING:
    from codetr.evaluation.evaluators import Evaluator
    from codetr.evaluation.figures import CocoFigures
    from codetr.evaluation.results import IouType
    from codetr.spec import Spec


@click.command("eval")
@click.argument("arguments", nargs=-1, metavar="[RUN|CKPT|SPEC] [KEY=VALUE]...")
@click.option("--dataset", type=Path, metavar="DIR", help="A data set's folder, instead of the one trained on.")
@click.option("--branch", metavar="NAME", help="Evaluate a head on its own, e.g. atss; detr is the matched branch.")
@click.option("--predictions", type=Path, metavar="FILE", help="Score a COCO results file instead of a model.")
@click.option("--annotations", type=Path, metavar="FILE", help="The annotation file that --predictions belongs to.")
@click.option("--iou-type", type=click.Choice(["bbox", "segm"]), help="Boxes or masks alone [what there is].")
@click.option("--class-agnostic", is_flag=True, help="Match detections with objects of any class.")
@click.option("--max-detections", type=click.IntRange(min=1), metavar="N", help="Detections counted; 100 by default.")
@click.option("--evaluator", type=click.Choice(["hotcoco", "pycocotools"]), help="Library; both give the same figures.")
@click.option("--device", help="auto (the default), cpu, cuda or cuda:N.")
@click.option("--per-class", is_flag=True, help="Print the AP of each class as well.")
@click.option("--json", "json_file", type=Path, metavar="FILE", help="Write the figures to a JSON file.")
def command(
    arguments: tuple[str, ...],
    dataset: Path | None,
    branch: str | None,
    predictions: Path | None,
    annotations: Path | None,
    iou_type: Literal["bbox", "segm"] | None,
    class_agnostic: bool,
    max_detections: int | None,
    evaluator: str | None,
    device: str | None,
    per_class: bool,
    json_file: Path | None,
) -> None:
    """Print the COCO figures of a model, or of a results file.

    A run's folder, a checkpoint or a spec names the model; without one it is the newest run under runs/. KEY=VALUE
    changes settings of its spec, e.g. data=DIR. To score results instead:

    \b
        codetr eval --predictions results.json --annotations instances_val.json
    """
    if predictions is None:
        _refuse({"--annotations": annotations, "--class-agnostic": class_agnostic}, model=True)
        figures, settings = _evaluate_model(
            arguments,
            dataset=dataset,
            branch=branch,
            iou_type=iou_type,
            max_detections=max_detections,
            evaluator=evaluator,
            device=device or "auto",
        )
    else:
        _refuse(
            {"--dataset": dataset, "--branch": branch, "--device": device, " ".join(arguments): arguments}, model=False
        )
        if annotations is None:
            raise click.UsageError("--predictions needs the annotation file that it belongs to: --annotations FILE")
        if per_class and class_agnostic:
            raise click.UsageError("--per-class has nothing to show with --class-agnostic; leave out one of them")
        figures, settings = _score_file(
            predictions,
            annotations,
            iou_type=iou_type or "bbox",
            class_agnostic=class_agnostic,
            max_detections=max_detections or 100,
            evaluator=evaluator or "hotcoco",
        )
    _report(figures, settings, per_class=per_class, json_file=json_file)


def _refuse(options: Mapping[str, object], *, model: bool) -> None:
    """A setting without effect is an error."""
    given = [name for name, value in options.items() if value]
    if given:
        case = "only with --predictions" if model else "only for a model, not with --predictions"
        raise click.UsageError(f"{' and '.join(given)}: {case}")


def _score_file(
    predictions: Path,
    annotations: Path,
    *,
    iou_type: Literal["bbox", "segm"],
    class_agnostic: bool,
    max_detections: int,
    evaluator: str,
) -> tuple[dict[IouType, CocoFigures], dict[str, Any]]:
    from codetr.evaluation.evaluators import CocoRules, score
    from codetr.evaluation.results import read_results
    from codetr.evaluation.truth import GroundTruth

    rules = CocoRules(iou_type=iou_type, max_detections=max_detections, class_agnostic=class_agnostic)
    library = _open_evaluator(evaluator)
    truth = GroundTruth.load(annotations)
    figures = score(truth, read_results(predictions, iou_type=iou_type), evaluator=library, rules=rules)
    return {iou_type: figures}, {
        "predictions": str(predictions),
        "annotations": str(annotations),
        "iou_type": iou_type,
        "class_agnostic": class_agnostic,
        "max_detections": max_detections,
        "evaluator": library.name,
    }


def _evaluate_model(
    arguments: tuple[str, ...],
    *,
    dataset: Path | None,
    branch: str | None,
    iou_type: IouType | None,
    max_detections: int | None,
    evaluator: str | None,
    device: str,
) -> tuple[dict[IouType, CocoFigures], dict[str, Any]]:
    targets = [argument for argument in arguments if "=" not in argument or Path(argument).exists()]
    if len(targets) > 1:
        raise click.UsageError(f"one run, checkpoint or spec at a time, not {', '.join(targets)}")
    overrides = [argument for argument in arguments if argument not in targets]

    from codetr.api import load_detector
    from codetr.engine.run_folder import find_run
    from codetr.evaluation.dataset import elsewhere, evaluate_split

    source = targets[0] if targets else str(find_run().path)
    detector = load_detector(source, device=device)
    spec = _with_overrides(detector.spec, overrides)
    chosen = {"branch": branch, "max_detections": max_detections, "evaluator": evaluator}
    settings = spec.eval.model_copy(update={key: value for key, value in chosen.items() if value is not None})
    data = spec.data if dataset is None else elsewhere(spec.data, dataset)
    library = _open_evaluator(settings.evaluator)
    with _progress() as start:
        figures = evaluate_split(
            detector.model,
            classes=detector.classes,
            category_ids=detector.category_ids,
            data=data,
            settings=settings,
            iou_type=iou_type,
            evaluator=library,
            device=detector.device,
            start=start,
        )
    used = {**settings.model_dump(mode="json"), "evaluator": library.name, "iou_type": " ".join(figures)}
    return figures, {"model": source, "data": None if data.dir is None else str(data.dir), **used}


def _with_overrides(spec: Spec, overrides: list[str]) -> Spec:
    """The spec that a model was trained with, evaluated otherwise."""
    from codetr.errors import UserError
    from codetr.spec import load_spec

    if not overrides:
        return spec
    changed = load_spec(spec.model_dump(mode="json"), overrides)
    if changed.model_dump(exclude={"data", "eval"}) != spec.model_dump(exclude={"data", "eval"}):
        raise UserError(
            f"{' '.join(overrides)}: the model is as it was trained, so only data.* and eval.* can be changed here. "
            "Train a spec with the other settings instead."
        )
    return changed


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


def _report(
    figures: Mapping[IouType, CocoFigures], settings: dict[str, Any], *, per_class: bool, json_file: Path | None
) -> None:
    """One table for each kind. In the file the first kind's figures are at the top, masks beside boxes in `segm`."""
    from rich.console import Console

    from codetr.evaluation.files import write_json
    from codetr.evaluation.tables import print_figures

    console, title = Console(), str(settings.get("model") or settings["predictions"])
    entries: dict[str, dict[str, Any]] = {}
    for kind, found in figures.items():
        heading = None if len(figures) == 1 else {"bbox": "boxes", "segm": "masks"}[kind]
        print_figures(found, console, title=title, heading=heading, per_class=per_class)
        entries[kind] = {**found.as_dict(), "per_category_AP": dict(found.per_class)}
    if json_file is not None:
        first, *others = entries
        content = {**entries[first], **{kind: entries[kind] for kind in others}, "settings": settings}
        write_json(json_file, content, indent=2)
