"""Checkpoints on disk: shared weights, atomic replacement, damage, other classes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from codetr.engine.checkpoint import (
    Meta,
    check_classes,
    load_weights,
    read_meta,
    read_weights,
    save_checkpoint,
    save_weights,
    state_folder,
    verify,
)
from codetr.errors import UserError

META = Meta(classes=("cat", "dog"), category_ids=(3, 8), spec={"train": {"epochs": 1}}, step=5, figures={"AP": 0.25})


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, 3)
        self.second = self.first
        self.third = nn.Linear(2, 3)


def test_a_checkpoint_comes_back_as_it_was(tmp_path: Path) -> None:
    model = Shared()
    save_checkpoint(tmp_path / "last", model.state_dict(), META, state={"optimizer/a": torch.ones(2)})
    files = sorted(str(path.relative_to(tmp_path / "last")) for path in (tmp_path / "last").rglob("*"))
    assert files == ["checksums.json", "meta.json", "model.safetensors", "state", "state/state.safetensors"]
    verify(tmp_path / "last")
    assert read_meta(tmp_path / "last") == META
    assert json.loads((tmp_path / "last" / "meta.json").read_text())["category_ids"] == [3, 8]
    state = safetensors.torch.load_file(state_folder(tmp_path / "last") / "state.safetensors")
    assert list(state) == ["optimizer/a"] and torch.equal(state["optimizer/a"], torch.ones(2))
    other = Shared()
    load_weights(other, read_weights(tmp_path / "last"), source=tmp_path)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def test_shared_weights_are_written_once_and_come_back_under_all_names(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    save_weights(file, Shared().state_dict(), META)
    assert sorted(safetensors.torch.load_file(file)) == ["first.bias", "first.weight", "third.bias", "third.weight"]
    weights = read_weights(file)
    assert list(weights) and torch.equal(weights["second.weight"], weights["first.weight"])
    separate = Shared()
    separate.second = nn.Linear(2, 3)
    load_weights(separate, weights, source=file)
    assert torch.equal(separate.second.weight, weights["first.weight"])


def test_a_file_alone_says_what_it_is(tmp_path: Path) -> None:
    save_weights(tmp_path / "detector.safetensors", Shared().state_dict(), META)
    assert read_meta(tmp_path / "detector.safetensors") == META


def test_a_description_beside_the_file_serves_too(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="nothing says which model"):
        read_meta(tmp_path / "model.safetensors")
    (tmp_path / "meta.json").write_text(META.text())
    assert read_meta(tmp_path / "model.safetensors") == read_meta(tmp_path) == META


def test_a_failure_while_writing_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "last", {"a": torch.ones(1)}, META, state={})
    with pytest.raises(AttributeError):
        save_checkpoint(tmp_path / "last", {"a": torch.zeros(1)}, META, state={"function": lambda: None})  # type: ignore
    assert torch.equal(read_weights(tmp_path / "last")["a"], torch.ones(1))
    assert [file.name for file in tmp_path.iterdir()] == ["last"]


@pytest.mark.parametrize("keep", [0, 4, 200])
def test_truncated_weights_are_named(tmp_path: Path, keep: int) -> None:
    save_checkpoint(tmp_path / "last", Shared().state_dict(), META, state={})
    file = tmp_path / "last" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UserError, match=r"model\.safetensors: the file is damaged or was cut short"):
        read_meta(tmp_path / "last")
    with pytest.raises(UserError, match=r"model\.safetensors: the file is damaged or was cut short"):
        read_weights(tmp_path / "last")


DAMAGE = {
    "weights cut short": ("model.safetensors", lambda content: content[:-1], "its content is not what was written"),
    "a bit of a weight": ("model.safetensors", lambda content: flipped(content, -1), "its content is not what"),
    "state cut short": ("state/state.safetensors", lambda content: content[:10], "its content is not what was written"),
    "a bit of the state": ("state/state.safetensors", lambda content: flipped(content, -3), "its content is not what"),
    "another description": ("meta.json", lambda content: content.replace(b'"step": 5', b'"step": 6'), "its content is"),
    "no state": ("state/state.safetensors", None, "it is missing"),
    "no checksums": ("checksums.json", None, "it is missing"),
    "checksums cut short": ("checksums.json", lambda content: content[:20], "it is no list of checksums"),
    "checksums of nothing": ("checksums.json", lambda content: b"{}", "its content is not what was written"),
}


def flipped(content: bytes, place: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1
    return bytes(changed)


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(tmp_path: Path, name: str) -> None:
    file, change, message = DAMAGE[name]
    save_checkpoint(tmp_path / "step", Shared().state_dict(), META, state={"a": torch.ones(100)})
    path = tmp_path / "step" / file
    if change is None:
        path.unlink()
    else:
        assert change(path.read_bytes()) != path.read_bytes()
        path.write_bytes(change(path.read_bytes()))
    place = "checksums.json|meta.json" if name == "checksums of nothing" else file
    with pytest.raises(UserError, match=rf"({place}): the file is damaged or was cut short: {message}"):
        verify(tmp_path / "step")


def test_a_file_that_was_added_is_found(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "step", {}, META, state={})
    (tmp_path / "step" / "state" / "more.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"more\.safetensors: the file is damaged"):
        verify(tmp_path / "step")


def test_weights_that_were_tampered_with_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best", Shared().state_dict(), META)
    file = tmp_path / "best" / "model.safetensors"
    file.write_bytes(flipped(file.read_bytes(), -1))
    assert len(safetensors.torch.load_file(file)) == 4  # the format itself does not notice
    with pytest.raises(UserError, match=r"model\.safetensors: the file is damaged"):
        read_weights(tmp_path / "best")


def test_a_folder_without_a_checkpoint_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint here: model\.safetensors is missing"):
        read_meta(tmp_path)
    save_checkpoint(tmp_path / "best", {}, META)
    with pytest.raises(UserError, match=r"nothing to resume from.*checkpoints/step_\*"):
        state_folder(tmp_path / "best")


def test_weights_of_another_model_are_refused(tmp_path: Path) -> None:
    weights = {"first.weight": torch.ones(4, 2), "extra": torch.ones(1)}
    with pytest.raises(UserError) as caught:
        load_weights(nn.ModuleDict({"first": nn.Linear(2, 3)}), weights, source=tmp_path)
    assert str(caught.value).splitlines()[1:4] == [
        "  first.bias is missing",
        "  extra is not part of the model",
        "  first.weight has shape (4, 2), the model (3, 2)",
    ]


@pytest.mark.parametrize("classes", [("cat",), ("cat", "cow")])
def test_other_classes_are_said_both(classes: tuple[str, ...]) -> None:
    check_classes(META, ("cat", "dog"), checkpoint=Path("run"), dataset="farm")
    with pytest.raises(UserError) as caught:
        check_classes(META, classes, checkpoint=Path("run"), dataset="farm")
    assert f"run was trained for 2 classes (cat, dog); farm has {len(classes)} class" in str(caught.value)
    assert ", ".join(classes) in str(caught.value)
