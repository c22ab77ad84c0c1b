"""The table of launch configurations: complete, sound, and the user's before the shipped one."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from codetr_kernels.deform_attention.triton import configs
from codetr_kernels.deform_attention.triton.configs import (
    ARCHITECTURES,
    Config,
    ShapeClass,
    choose,
    override,
    save,
    shipped,
)

ENCODER = ShapeClass("sm_90", "forward", 2, 32, many_queries=True)


@pytest.fixture(autouse=True)
def _own_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CODETR_KERNELS_CONFIGS", str(tmp_path / "own" / "table.json"))
    _forget()
    yield
    _forget()


def _forget() -> None:
    configs._read_user_table.cache_clear()
    configs._chosen.cache_clear()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_shape_class_has_a_configuration(architecture: str) -> None:
    classes = itertools.product(("forward", "backward"), (2, 4, 8), (8, 16, 32, 64, 128, 256), (True, False))
    keys = {ShapeClass(architecture, *parts).key() for parts in classes}
    assert set(shipped(architecture)) == keys


def test_a_shape_class_is_named_by_what_it_is_chosen_by() -> None:
    assert ENCODER.key() == "forward/16-bit/d32/many"
    assert ShapeClass("sm_80", "backward", 4, 256, many_queries=False).key() == "backward/32-bit/d256/few"


def test_an_encoder_of_16_bits_gives_each_thread_one_vector() -> None:
    # 32 queries x 32 channels on 4 x 32 threads: 8 channels of 2 bytes each.
    assert choose(ENCODER) == Config(block_q=32, num_warps=4, unroll=1, tile_w=8)


def test_a_users_own_table_comes_first_and_keeps_its_other_entries() -> None:
    own, other = Config(64, 8, 2, 8), Config(16, 2, 1, 0)
    path = save({"sm_90": {ENCODER.key(): own}})
    assert choose(ENCODER) == own
    assert choose(ENCODER._replace(direction="backward")) == shipped("sm_90")["backward/16-bit/d32/many"]
    save({"sm_90": {"backward/16-bit/d32/many": other}, "sm_80": {ENCODER.key(): other}})
    assert (choose(ENCODER), choose(ENCODER._replace(architecture="sm_80"))) == (own, other)
    assert list(path.parent.iterdir()) == [path]


def test_an_override_ends_where_it_says() -> None:
    config = Config(1, 1, 1, 0)
    with override(config):
        assert choose(ENCODER) == config
    assert choose(ENCODER) == shipped("sm_90")[ENCODER.key()]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no table of kernel configurations"),
        ("[]", "is no table of kernel configurations"),
        (json.dumps({"sm_70": {}}), "unknown architecture 'sm_70', expected one of sm_80"),
        (json.dumps({"sm_90": {"a": [3, 1, 1, 0]}}), "a: block_q and num_warps must be powers of two"),
        (json.dumps({"sm_90": {"a": [4, 1, 0, 0]}}), "a: unroll must be positive and tile_w divide block_q"),
        (json.dumps({"sm_90": {"a": [4, 1, 1, 3]}}), "a: unroll must be positive and tile_w divide block_q"),
        (json.dumps({"sm_90": {"a": [4, 1]}}), "is no table of kernel configurations"),
    ],
)
def test_a_table_that_is_none_says_what_to_do(text: str, message: str) -> None:
    path = configs.user_file()
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        choose(ENCODER)
    assert str(path) in str(caught.value)
    assert "codetr bench kernels --tune" in str(caught.value)
