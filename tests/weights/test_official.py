"""The authors' checkpoints: reading them safely, and what becomes of each name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from codetr.errors import UserError
from codetr.weights.conversion import check_against
from codetr.weights.official import convert_official, num_classes_of, read_official


def test_every_tensor_comes_back_under_our_name(official: Any) -> None:
    result = convert_official(official.state)
    own = official.model.state_dict()
    assert result.state.keys() == own.keys()
    for name, tensor in own.items():
        # Two scalars of float32 were subtracted and are added again; everything else is moved only.
        torch.testing.assert_close(result.state[name], tensor, rtol=0, atol=1e-7, msg=name)
    assert [entry for entry in result.entries if entry.outcome != "mapped"] == []
    assert len(result.entries) == len(official.state) + 1  # one tensor of two scalars is two entries
    check_against(result, own)


def test_no_name_of_the_published_code_is_unmatched(shared: Path) -> None:
    stored = torch.load(shared / "data" / "oracles" / "codeform.pt", weights_only=True)["shapes_by_name"]
    state = {name: torch.zeros(shape) for name, shape in stored.items()}
    result = convert_official(state)
    assert result.count("unmatched") == 0
    assert result.count("mapped") > 250
    assert {entry.source.rpartition(".")[2] for entry in result.entries if entry.outcome == "dropped"} <= {
        "num_batches_tracked"
    }
    assert num_classes_of(state) == 7


def test_bookkeeping_is_dropped_and_strays_are_unmatched(official: Any) -> None:
    more = {"backbone.bn1.num_batches_tracked": torch.tensor(5), "mask_head.0.w": torch.ones(1)}
    entries = {entry.source: entry for entry in convert_official(official.state | more).entries}
    assert entries["backbone.bn1.num_batches_tracked"].outcome == "dropped"
    assert entries["mask_head.0.w"].outcome == "unmatched"


def test_the_last_branch_is_the_encoders(official: Any) -> None:
    state = convert_official(official.state).state
    assert torch.equal(state["base.proposals.heads.classes.0.bias"], official.state["query_head.cls_branches.2.bias"])
    assert torch.equal(state["base.heads.classes.1.bias"], official.state["query_head.cls_branches.1.bias"])


def test_scalars_without_the_norms_that_they_belong_to_are_unmatched(official: Any) -> None:
    state = {name: tensor for name, tensor in official.state.items() if "aux_pos_trans_norm" not in name}
    unmatched = [entry.source for entry in convert_official(state).entries if entry.outcome == "unmatched"]
    assert unmatched == [f"query_head.transformer.head_pos_embed.weight[{i}]" for i in (0, 1)]


def test_another_state_dict_is_refused() -> None:
    with pytest.raises(UserError, match=r"no query_head\.cls_branches in the file"):
        convert_official({"layer.weight": torch.ones(1)})


def test_the_number_of_classes() -> None:
    assert num_classes_of({"a": torch.ones(1), "query_head.cls_branches.4.bias": torch.zeros(80)}) == 80
    with pytest.raises(UserError, match="incomplete"):
        num_classes_of({"query_head.cls_branches.0.weight": torch.zeros(80, 4)})


def save(file: Path, content: object) -> Path:
    torch.save(content, file)
    return file


@pytest.mark.parametrize("wrapped", [True, False])
def test_reading_leaves_out_the_moving_average(tmp_path: Path, wrapped: bool) -> None:
    state = {"a.w": torch.ones(2), "ema_a_w": torch.zeros(2), "emanation.w": torch.ones(1)}
    content = {"meta": {"epoch": 12}, "state_dict": state} if wrapped else state
    found = read_official(save(tmp_path / "x.pth", content))
    assert list(found) == ["a.w", "emanation.w"]
    assert torch.equal(found["a.w"], torch.ones(2))


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.proof),)


def error(file: Path) -> str:
    with pytest.raises(UserError) as caught:
        read_official(file)
    message = str(caught.value)
    assert message.startswith(f"{file}: ") and "\n" not in message
    return message


def test_code_in_a_checkpoint_is_refused_and_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    file = save(tmp_path / "evil.pth", {"state_dict": {"a": Malicious(proof)}})
    message = error(file)
    assert "it holds posix.mkdir besides plain tensors, and no code from a file is run" in message
    assert "weights_only" not in message  # no advice to run it
    plain = tmp_path / "evil.pkl"
    plain.write_bytes(pickle.dumps(Malicious(proof), protocol=2))
    error(plain)
    assert not proof.exists()
    torch.load(file, weights_only=False)  # the trap works
    assert proof.is_dir()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04 no archive", b"\x80\x02"])
def test_what_is_no_checkpoint_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(content)
    assert "it is damaged, was cut short, or is no PyTorch file" in error(file)


def test_a_checkpoint_that_was_cut_short(tmp_path: Path) -> None:
    file = save(tmp_path / "x.pth", {"state_dict": {"a": torch.ones(1000)}})
    file.write_bytes(file.read_bytes()[:-200])
    assert "was cut short" in error(file)


@pytest.mark.parametrize(
    "content", [[1, 2], {"state_dict": [torch.ones(1)]}, {"a": 1.0}, {"state_dict": {"a": "text"}}]
)
def test_a_file_without_tensors_by_name(tmp_path: Path, content: object) -> None:
    assert "found no state_dict of tensors in it" in error(save(tmp_path / "x.pth", content))


def test_a_path_that_is_no_file(tmp_path: Path) -> None:
    assert error(tmp_path / "x.pth").endswith("no such file")
    assert error(tmp_path).endswith("a folder; name the file in it")
