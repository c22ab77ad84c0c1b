"""Imports go down only: the floors of the package, and the independence of bases and heads from each other."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# The longest prefix of a module's name decides. A module may import its own floor and those below.
FLOORS = {
    "codetr_kernels": 0,
    "codetr.errors": 1,
    "codetr.zoo": 1,
    "codetr.yaml_nodes": 1,
    "codetr.document": 1,
    "codetr.config": 1,
    "codetr.registry": 1,
    "codetr.schema": 1,
    "codetr.show": 1,
    "codetr.structures": 1,
    "codetr.ops": 2,
    "codetr.data": 2,
    "codetr.assigners": 3,
    "codetr.losses": 3,
    "codetr.models.layers": 4,
    "codetr.models.parts": 4,
    "codetr.models.backbones": 4,
    "codetr.models.necks": 4,
    "codetr.models.bases": 5,
    "codetr.models.heads": 5,
    "codetr.models.collaborative": 6,
    "codetr.models.build": 6,
    "codetr.spec": 7,
    "codetr.engine": 7,
    "codetr.evaluation": 7,
    "codetr.weights": 7,
    "codetr.api": 7,
    "codetr.bench": 7,
    "codetr.doctor": 7,
    "codetr.inference_trace": 7,
    "codetr.inspection": 7,
    "codetr.model_summary": 7,
    "codetr.pictures": 7,
    "codetr.prediction": 7,
    "codetr.wrap": 7,
    "codetr.zoo_tables": 7,
    "codetr.cli": 8,
}
# Packages that hold floors: they import nothing when they are imported.
HALLS = {"codetr", "codetr.models"}
# Each file is a component of its own; only the contract is shared.
SIBLINGS = ("codetr.models.bases", "codetr.models.heads", "codetr.models.backbones", "codetr.models.necks")


def modules() -> dict[str, Path]:
    """Every module of both packages by its dotted name."""
    found = {}
    for top in (ROOT, ROOT / "kernels"):
        for package in ("codetr", "codetr_kernels"):
            for path in (top / package).rglob("*.py"):
                parts = path.relative_to(top).with_suffix("").parts
                found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, *, top_level: bool = False) -> Iterator[str]:
    """Dotted names that a module imports, anywhere in it or when it is imported itself."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in _executed(tree) if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}: line {node.lineno}: relative import"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes outside of functions and of `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _executed(child)


def floor(name: str) -> int | None:
    """The floor of a module, None for what is not of these packages."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        if ".".join(parts[:length]) in FLOORS:
            return FLOORS[".".join(parts[:length])]
    return None


def faults(name: str, targets: set[str]) -> list[str]:
    """What is wrong with the imports of a module."""
    own = floor(name)
    assert own is not None
    upward = [f"{name} (floor {own}) imports {target}" for target in targets if (floor(target) or 0) > own]
    return upward + [f"{name} imports its sibling {target}" for target in targets if _sibling(name, target)]


def _sibling(name: str, target: str) -> bool:
    for package in SIBLINGS:
        if name.startswith(f"{package}.") and target.startswith(f"{package}."):
            module = target.removeprefix(f"{package}.").split(".")[0]
            return module not in ("contract", name.removeprefix(f"{package}.").split(".")[0])
    return False


def _loaded(name: str, path: Path) -> list[str]:
    known = modules()
    return [target for target in imports(name, path) if target in known or floor(target) is not None]


@pytest.mark.parametrize("name", sorted(set(modules()) - HALLS))
def test_imports_go_down(name: str) -> None:
    assert floor(name) is not None, f"{name} has no floor: add it to FLOORS"
    assert faults(name, set(_loaded(name, modules()[name]))) == []


def test_the_kernels_import_torch_and_triton_only() -> None:
    allowed = {*sys.stdlib_module_names, "codetr_kernels", "torch", "triton"}
    for name, path in modules().items():
        if name.split(".")[0] == "codetr_kernels":
            # Where it has no kernel: inside a function, with an error that says what is missing.
            lazy = {
                "codetr_kernels.nms.reference": {"torchvision"},
                "codetr_kernels.linear_assignment.reference": {"scipy"},
            }
            also = lazy.get(name, set())
            assert {target.split(".")[0] for target in imports(name, path)} <= allowed | also, name


@pytest.mark.parametrize("name", [name for name in sorted(modules()) if name in HALLS or floor(name) == 8])
def test_the_package_and_its_commands_start_without_torch(name: str) -> None:
    """Directly or through what they import when they are imported."""
    known = modules()
    waiting, seen = [name], set()
    while waiting:
        current = waiting.pop()
        seen.add(current)
        for target in imports(current, known[current], top_level=True):
            assert target.split(".")[0] not in ("torch", "torchvision", "timm", "triton", "scipy"), (
                f"{current}: {target}"
            )
            parents = [".".join(target.split(".")[: i + 1]) for i in range(target.count(".") + 1)]
            waiting += [parent for parent in parents if parent in known and parent not in seen]


def test_the_rules_notice_what_they_forbid() -> None:
    assert faults("codetr.ops.boxes", {"codetr.models.bases.dino"}) == [
        "codetr.ops.boxes (floor 2) imports codetr.models.bases.dino"
    ]
    assert faults("codetr.models.heads.atss", {"codetr.models.heads.fcos.FCOS"}) == [
        "codetr.models.heads.atss imports its sibling codetr.models.heads.fcos.FCOS"
    ]
    assert faults("codetr.models.heads.atss", {"codetr.models.heads.contract.Head", "codetr.ops.boxes"}) == []
    assert faults("codetr.engine.optim", {"torch", "codetr.spec"}) == []
