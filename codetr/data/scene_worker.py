"""Rendering the pictures of a synthetic data set, in this process or in several.

Other processes are plain `python -m codetr.data.scene_worker` commands rather than a multiprocessing pool: they never
import the caller's main module, so a script needs no `if __name__ == "__main__"`, and they are no forks of a process
that already runs torch's threads.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as rle

from codetr.data.long_tail_plan import classes_of, plan
from codetr.data.sampling_config import LongTail
from codetr.data.scene import Cast, Scene, compose

Annotation = dict[str, Any]
_QUALITY = 92


@dataclass(frozen=True)
class Job:
    """The pictures `first, first + step, ...` below `count` of one split, and how to make them.

    split: 0 train, 1 val. crowds: share of pictures with a crowd region. files: name pattern of the pictures, whose
    numbers follow `offset`. long_tail: the settings of a long-tailed set, or None.
    """

    folder: str
    files: str
    split: int
    count: int
    seed: int
    size: int
    objects: tuple[int, int]
    clutter: float
    crowds: float
    offset: int = 0
    long_tail: dict[str, Any] | None = None
    first: int = 0
    step: int = 1


Rendered = tuple[int, list[Annotation]]


def render(job: Job) -> Iterator[Rendered]:
    """Writes a job's pictures; yields each one's index in the split and its annotations (without any ids).

    A picture depends on the seed, the split and its index alone.
    """
    casts = _casts(job)
    for index in range(job.first, job.count, job.step):
        rng = np.random.default_rng([job.seed, job.split, index])
        # Crowds are spread evenly, not drawn, so that a small split gets its share too.
        crowd = int((index + 1) * job.crowds + 0.5) > int(index * job.crowds + 0.5)
        scene = compose(rng, job.size, objects=job.objects, clutter=job.clutter, crowd=crowd, cast=casts[index])
        path = Path(job.folder, job.files.format(job.offset + index + 1))
        Image.fromarray(scene.pixels).save(path, quality=_QUALITY, subsampling=0)
        yield index, annotate(scene)


def _casts(job: Job) -> Sequence[Cast | None]:
    """What each picture of the split shows."""
    if job.long_tail is None:
        return [None] * job.count
    tail = LongTail.model_validate(job.long_tail)
    shown = plan(tail, pictures=job.count, objects=job.objects, split=job.split, seed=job.seed)
    looks = classes_of(tail)
    return [Cast(labels, looks) for labels in shown]


def annotate(scene: Scene) -> list[Annotation]:
    """COCO annotations of a scene without ids: compressed RLE of the visible part, its area and its tight box."""
    found: list[Annotation] = []
    for item in scene.objects:
        code = rle.encode(np.asfortranarray(item.mask, dtype=np.uint8))
        found.append(
            {
                "category_id": item.label + 1,
                "bbox": [float(value) for value in rle.toBbox(code)],
                "area": float(rle.area(code)),
                "iscrowd": int(item.crowd),
                "segmentation": {"size": list(code["size"]), "counts": code["counts"].decode("ascii")},
            }
        )
    return found


def render_all(job: Job, *, workers: int, progress: Callable[[], None]) -> list[list[Annotation]]:
    """The annotations of every picture of a split, in order; `progress` is called after each picture.

    Raises: RuntimeError if another process fails; it prints the reason itself.
    """
    found: dict[int, list[Annotation]] = {}
    lock = threading.Lock()

    def collect(rendered: Iterator[Rendered]) -> None:
        for index, items in rendered:
            with lock:
                found[index] = items
                progress()

    parts = [Job(**{**asdict(job), "first": first, "step": workers}) for first in range(min(workers, job.count))]
    if len(parts) == 1 or not sys.executable:
        collect(render(job))
    else:
        _run_parts(parts, collect)
    return [found[index] for index in range(job.count)]


def _run_parts(parts: list[Job], collect: Callable[[Iterator[Rendered]], None]) -> None:
    """Runs each part in a process of its own; the first failure, or Ctrl-C, stops them all."""
    places = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    environment = {**os.environ, "PYTHONPATH": places, "OMP_NUM_THREADS": "1"}

    def start(part: Job) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "codetr.data.scene_worker", json.dumps(asdict(part))]
        return subprocess.Popen(command, env=environment, text=True, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)

    def follow(process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        collect(tuple(json.loads(line)) for line in process.stdout)
        if process.wait():
            raise RuntimeError(f"a process that renders pictures ended with code {process.returncode}, see above")

    with ExitStack() as stack:
        processes = [stack.enter_context(start(part)) for part in parts]
        pool = stack.enter_context(ThreadPoolExecutor(len(parts)))
        try:
            for follower in as_completed([pool.submit(follow, process) for process in processes]):
                follower.result()
        finally:
            for process in processes:
                process.kill()


def main(text: str) -> None:
    """Renders one job, given as JSON; prints each picture's index and annotations as a line of JSON."""
    settings = json.loads(text)
    settings["objects"] = tuple(settings["objects"])
    for rendered in render(Job(**settings)):
        print(json.dumps(rendered), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
