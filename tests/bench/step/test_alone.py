from __future__ import annotations

import subprocess
from types import SimpleNamespace

import pytest

from codetr.bench.step import alone
from codetr.bench.step.alone import Request, measure_alone
from codetr.bench.step.subjects import WITH
from codetr.errors import UserError


def test_a_process_of_its_own(spec) -> None:
    found = measure_alone(Request(WITH, spec, (64, 64), steps=1, warmup=1))
    assert found["name"] == WITH
    assert found["times"]["runs"] == 1
    assert sum(found["parts"].values()) == pytest.approx(found["mean"])
    model = 3 * 4 * found["parameters"]  # weights and the two moments of AdamW stay; pages are shared with nothing
    assert model < found["peak_memory"] < 2**30


@pytest.mark.parametrize(
    ("code", "stderr", "message"),
    [
        (1, "Traceback\nValueError: no\n", "the process that measures 'with heads' failed: ValueError: no"),
        (-9, "", "'with heads' was ended by signal 9 (the system does so when memory runs out)"),
    ],
)
def test_a_process_that_ends_early(spec, monkeypatch, code, stderr, message) -> None:
    done = SimpleNamespace(returncode=code, stdout="", stderr=stderr)
    monkeypatch.setattr(subprocess, "run", lambda *arguments, **options: done)
    with pytest.raises(UserError) as error:
        measure_alone(Request(WITH, spec, (64, 64), steps=1, warmup=1))
    assert message in str(error.value)


def test_what_is_asked_for_arrives(spec) -> None:
    import json

    request = Request(WITH, spec, (64, 96), steps=3, warmup=2)
    document = json.dumps({**request.__dict__, "spec": spec.model_dump(mode="json")})
    assert alone._read(document) == request
