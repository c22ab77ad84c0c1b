"""What a run reads: training images, the loader of a rank, and the evaluation on the validation images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from torch import nn

from codetr.data.coco import CocoDataset, open_split, require_same_classes
from codetr.data.loader import Loader, build_loader
from codetr.data.prepare import prepare
from codetr.engine.averaging import averaged_epochs
from codetr.engine.distributed import World
from codetr.engine.early_stopping import check_early_stopping
from codetr.engine.federated import require_class_draw
from codetr.engine.plan import piece_size
from codetr.engine.progress import TrainingProgress
from codetr.errors import UserError
from codetr.evaluation.dataset import open_val
from codetr.evaluation.evaluators import open_evaluator, require_scorable
from codetr.evaluation.figures import Figures as EvaluationFigures
from codetr.evaluation.protocol import rules_for
from codetr.evaluation.results import IouType
from codetr.evaluation.runner import check_branch, evaluate_model, iou_types_of
from codetr.evaluation.truth import GroundTruth
from codetr.models.collaborative import Collaborative
from codetr.registry import find
from codetr.spec import Spec

Figures = Mapping[str, float]


def require_possible(spec: Spec) -> None:
    """Raises: UserError for settings that contradict one another."""
    _require_masks(spec)
    require_class_draw(spec)
    check_early_stopping(spec.train)
    averaged_epochs(spec.train)
    if spec.train.compile and spec.train.parallel == "fsdp":
        raise UserError(
            "train.compile=true cannot be combined with train.parallel=fsdp: layers that are gathered one by one are "
            "no whole graph. Use train.parallel=ddp, or train.compile=false."
        )


def open_data(spec: Spec, ranks: World, console: Console) -> CocoDataset:
    """The training images; a synthetic data set that is not there yet is rendered first, by one rank for all."""
    if ranks.leads:
        columns = (TextColumn("rendering the data set"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
            task = bar.add_task("rendering", visible=False)
            prepare(spec.data, progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True))
    ranks.from_leader(None)
    return open_split(spec.data, "train")


def training_loader(spec: Spec, data: CocoDataset, ranks: World) -> Loader:
    """This rank's pieces of the batch. Raises: UserError if the batch cannot be divided."""
    return build_loader(
        data,
        spec.data,
        split="train",
        batch_size=piece_size(spec.train, ranks.size),
        seed=spec.train.seed,
        rank=ranks.rank,
        world_size=ranks.size,
        accumulate=spec.train.accumulate,
    )


def evaluation(
    spec: Spec, model: Collaborative, train: CocoDataset, ranks: World, progress: TrainingProgress
) -> Callable[[nn.Module], Figures]:
    """The validation images, opened once; each rank predicts its share of them.

    Figures of boxes by their names, e.g. `AP`, and those of masks as `segm/AP`, if the branch predicts them.

    Raises: UserError if the split cannot be used, its classes are not those of training, or there is no such branch.
    """
    check_branch(model, spec.eval.branch)
    val, file = open_val(spec.data)
    require_same_classes(train, val)
    truth = GroundTruth.of(file)
    kinds = iou_types_of(model, spec.eval.branch)
    if "segm" in kinds and not truth.has_masks:
        kinds = ("bbox",)
        progress.say(f"warning: only boxes are evaluated, as some annotations of {truth.file} have no segmentation")
    rules = rules_for(spec.eval, kinds, federated=truth.is_federated)
    require_scorable(truth, rules[0])
    evaluator = open_evaluator(spec.eval.evaluator, announce=progress.say)
    loader = build_loader(
        val,
        spec.data,
        split="val",
        batch_size=spec.eval.batch_size,
        seed=spec.train.seed,
        rank=ranks.rank,
        world_size=ranks.size,
    )

    def evaluate(evaluated: nn.Module) -> Figures:
        figures = evaluate_model(
            evaluated,  # type: ignore[arg-type]  # a copy of the wrapped model, if not itself
            loader,
            truth=truth,
            category_ids=train.category_ids,
            branch=spec.eval.branch,
            rules=rules,
            evaluator=evaluator,
            device=ranks.device,
            progress=progress.counter("evaluating", total=-(-len(val) // ranks.size)),
        )
        return named(figures)

    return evaluate


def named(figures: Mapping[IouType, EvaluationFigures]) -> dict[str, float]:
    """Figures of boxes and masks in one: those of masks are `segm/AP` and so on, unless they are alone."""
    first, *others = figures
    found = figures[first].as_dict()
    for kind in others:
        found |= {f"{kind}/{name}": value for name, value in figures[kind].as_dict().items()}
    return found


def _require_masks(spec: Spec) -> None:
    """Raises: UserError if a head learns masks and the data are read without them."""
    if spec.data.masks:
        return
    for name, head in spec.heads.items():
        if find("heads", head.name).has_masks:
            raise UserError(
                f"heads.{name}: the head {head.name} learns masks, but data.masks is false. Set data.masks=true (each "
                "annotation then needs a `segmentation`), or use the head faster_rcnn, which needs boxes only."
            )
