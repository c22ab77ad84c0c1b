"""One candidate of evaluation.py in a process of its own: prints seconds, memory and figures as a line of JSON.

    python _evaluation_candidate.py coco|lvis NAME ANNOTATIONS RESULTS SECONDS GIB

Ends with code 3, and the reason as its last line, if that takes more than SECONDS or GIB. Imports come before the
clock starts.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import logging
import os
import resource
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

Run = Callable[[str, str], dict[str, float]]
READ: dict[str, float] = {}


def codetr(kind: str, evaluator: str) -> Run:
    from codetr.evaluation.evaluators import Rules, open_evaluator, score
    from codetr.evaluation.results import read_results
    from codetr.evaluation.truth import GroundTruth

    library = open_evaluator(evaluator)
    rules = Rules(protocol="lvis" if kind == "lvis" else "coco")

    def run(truth: str, found: str) -> dict[str, float]:
        start = time.perf_counter()
        objects, results = GroundTruth.load(truth), read_results(found)
        READ["reading"] = time.perf_counter() - start
        return score(objects, results, evaluator=library, rules=rules).as_dict()

    return run


def hotcoco(kind: str) -> Run:
    import hotcoco

    def run(truth: str, found: str) -> dict[str, float]:
        coco = hotcoco.COCO(truth)
        if kind == "lvis":
            evaluation = hotcoco.LVISeval(coco, hotcoco.LVISResults(coco, found), "bbox")
        else:
            evaluation = hotcoco.COCOeval(coco, coco.load_res(found), "bbox")
        evaluation.run()
        return dict(evaluation.get_results())

    return run


def pycocotools() -> Run:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def run(truth: str, found: str) -> dict[str, float]:
        coco = COCO(truth)
        evaluation = COCOeval(coco, coco.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return {"AP": float(evaluation.stats[0]), "AP50": float(evaluation.stats[1])}

    return run


def faster_coco_eval(kind: str) -> Run:
    from faster_coco_eval import COCO, COCOeval_faster

    def run(truth: str, found: str) -> dict[str, float]:
        coco = COCO(truth)
        evaluation = COCOeval_faster(coco, coco.loadRes(found), "bbox", lvis_style=kind == "lvis")
        if kind == "lvis":
            evaluation.params.maxDets = [300]
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return {"AP": float(evaluation.stats[0]), "AP50": float(evaluation.stats[1])}

    return run


def lvis() -> Run:
    import numpy

    numpy.float = float  # type: ignore[attr-defined]  # lvis 0.5.3 uses the name that numpy 1.24 removed
    from lvis import LVIS, LVISEval

    def run(truth: str, found: str) -> dict[str, float]:
        evaluation = LVISEval(LVIS(truth), found, "bbox")
        evaluation.run()
        return {key: float(value) for key, value in evaluation.get_results().items()}

    return run


def watch(seconds: float, gib: float) -> None:
    """Ends the process when it is over its limits."""
    end = time.monotonic() + seconds
    page = resource.getpagesize()
    while True:
        time.sleep(0.1)
        with open("/proc/self/statm") as file:
            resident = int(file.read().split()[1]) * page
        reason = "" if time.monotonic() < end else f"takes more than {seconds:,.0f} s"
        reason = reason or ("" if resident < gib * 2**30 else f"takes more than {gib:g} GiB")
        if reason:
            os.write(1, f"{reason}\n".encode())
            os._exit(3)


def peak() -> int:
    """Bytes. The figure of getrusage would include the process that started this one."""
    with open("/proc/self/status") as file:
        (line,) = (line for line in file if line.startswith("VmHWM:"))
    return int(line.split()[1]) * 1024


def main() -> None:
    kind, name, truth, found, seconds, gib = sys.argv[1:]
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    makers: dict[str, Callable[[], Run]] = {
        "codetr-hotcoco": lambda: codetr(kind, "hotcoco"),
        "codetr-pycocotools": lambda: codetr(kind, "pycocotools"),
        "hotcoco": lambda: hotcoco(kind),
        "pycocotools": pycocotools,
        "faster-coco-eval": lambda: faster_coco_eval(kind),
        "lvis": lvis,
    }
    package = name.partition("-")[2] if name.startswith("codetr") else name
    run = makers[name]()
    threading.Thread(target=watch, args=(float(seconds), float(gib)), daemon=True).start()
    start, used = time.perf_counter(), time.process_time()
    with contextlib.redirect_stdout(io.StringIO()):
        figures = run(truth, found)
    line: dict[str, Any] = {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - used,
        "peak": peak(),
        "package": {package: importlib.metadata.version(package)},
        "figures": {key: figures[key] for key in ("AP", "AP50")},
        **READ,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
