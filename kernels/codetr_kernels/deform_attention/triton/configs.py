"""The frozen table of launch configurations, a user's own, and which one a problem gets.

Nothing is tuned while a model runs: all ranks of a job launch the same programs, and a first step costs one
compilation. A user's table (`codetr bench kernels --tune`) lies in one file, read once.
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import resources
from pathlib import Path
from typing import Literal, NamedTuple

Direction = Literal["forward", "backward"]
ARCHITECTURES = ("sm_80", "sm_90", "sm_100", "gfx942")
MANY_QUERIES = 4096
"""From here on a call has enough queries to fill a GPU with large blocks: the encoder's shape class."""


class Config(NamedTuple):
    """How one kernel is launched.

    block_q: queries of a program, a power of two. num_warps: of a program. unroll: points a turn of the inner loop.
    tile_w: width in cells of a program's tile of queries where the queries are the cells of the levels; 0: a row.
    """

    block_q: int
    num_warps: int
    unroll: int
    tile_w: int


INTERPRETED = Config(block_q=256, num_warps=1, unroll=1, tile_w=0)
"""For Triton's interpreter, whose time goes by the number of programs."""


class ShapeClass(NamedTuple):
    """What a configuration is chosen by.

    itemsize: bytes of an element of value. block_d: head dimension, rounded up to a power of two.
    """

    architecture: str
    direction: Direction
    itemsize: int
    block_d: int
    many_queries: bool

    def key(self) -> str:
        """As the tables are keyed, such as "backward/16-bit/d32/many"."""
        queries = "many" if self.many_queries else "few"
        return f"{self.direction}/{8 * self.itemsize}-bit/d{self.block_d}/{queries}"


_override: ContextVar[Config | None] = ContextVar("override", default=None)


def choose(shape_class: ShapeClass) -> Config:
    """The overriding configuration, the user's, or the shipped one."""
    return _override.get() or _chosen(shape_class)


@functools.cache
def _chosen(shape_class: ShapeClass) -> Config:
    if shape_class.architecture == "interpreter":
        return INTERPRETED
    key = shape_class.key()
    own = _read_user_table().get(shape_class.architecture, {})
    return own.get(key) or shipped(shape_class.architecture)[key]


@contextmanager
def override(config: Config) -> Iterator[None]:
    """Launch everything within as `config` says: for tuning and tests."""
    token = _override.set(config)
    try:
        yield
    finally:
        _override.reset(token)


@functools.cache
def shipped(architecture: str) -> dict[str, Config]:
    """The table of an architecture that comes with the package, by key."""
    text = resources.files(__package__).joinpath("configs", f"{architecture}.json").read_text(encoding="utf-8")
    return _parse(json.loads(text)["configs"], architecture)


def user_file() -> Path:
    """Where a user's own table is: $CODETR_KERNELS_CONFIGS, or a file in the cache folder."""
    named = os.environ.get("CODETR_KERNELS_CONFIGS")
    if named:
        return Path(named)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "codetr_kernels" / "deform_attention.json"


def save(tables: dict[str, dict[str, Config]]) -> Path:
    """Write the user's table, architecture -> key -> configuration, beside entries of other keys that it holds."""
    path = user_file()
    merged = {arch: dict(table) for arch, table in _read_user_table().items()}
    for architecture, table in tables.items():
        merged.setdefault(architecture, {}).update(table)
    path.parent.mkdir(parents=True, exist_ok=True)
    written = {arch: {key: list(config) for key, config in sorted(table.items())} for arch, table in merged.items()}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    _read_user_table.cache_clear()
    _chosen.cache_clear()
    return path


@functools.cache
def _read_user_table() -> dict[str, dict[str, Config]]:
    path = user_file()
    if not path.is_file():
        return {}
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        return {architecture: _parse(table, architecture) for architecture, table in written.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is no table of kernel configurations ({error}): "
            "remove it, or write it anew with `codetr bench kernels --tune`"
        ) from error


def _parse(table: dict[str, list[int]], architecture: str) -> dict[str, Config]:
    if architecture not in ARCHITECTURES:
        raise ValueError(f"unknown architecture {architecture!r}, expected one of {', '.join(ARCHITECTURES)}")
    configs = {key: Config(*numbers) for key, numbers in table.items()}
    for key, config in configs.items():
        _check(key, config)
    return configs


def _check(key: str, config: Config) -> None:
    powers = (config.block_q, config.num_warps)
    if not all(isinstance(n, int) and n > 0 and n & (n - 1) == 0 for n in powers):
        raise ValueError(f"{key}: block_q and num_warps must be powers of two, got {list(config)}")
    if config.unroll < 1 or config.tile_w < 0 or (config.tile_w and config.block_q % config.tile_w):
        raise ValueError(f"{key}: unroll must be positive and tile_w divide block_q, got {list(config)}")
