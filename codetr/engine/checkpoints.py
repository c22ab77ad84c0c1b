"""Saving a run's checkpoints in the background, and keeping the newest."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import cast

import torch.distributed as dist
from safetensors import SafetensorError
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_saver import async_save

from codetr.engine.checkpoint import STATE, Meta, complete, save_checkpoint
from codetr.engine.distributed import World
from codetr.engine.files import replaced_folder
from codetr.engine.run_folder import RunFolder, step_of
from codetr.errors import UserError


class NotSaved(UserError):
    """A checkpoint could not be written."""


class Checkpoints:
    """Writes checkpoints/step_* one at a time while training goes on; the leader, or all ranks if states are sharded.

    What is saved is copied to the host first. A checkpoint appears under its name when all of it is on disk. If writing
    fails, for want of room say, those before stay, and the failure is told by the next call.

    keep: how many of the newest stay. say: prints a line.
    """

    def __init__(
        self, folder: RunFolder, world: World, *, keep: int, sharded: bool, say: Callable[[str], None]
    ) -> None:
        self._folder, self._world, self._keep, self._sharded, self._say = folder, world, keep, sharded, say
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._pending: Future[None] | None = None
        self._shares: Future[None] | None = None
        self._step = 0
        if world.leads:  # what a process left that was killed while it wrote
            for rest in (
                *folder.path.glob("checkpoints/.step_*.writing"),
                *folder.path.glob("checkpoints/.step_*.shares"),
            ):
                shutil.rmtree(rest)
        # The threads that save talk to one another beside the ranks' other conversations.
        self._group = dist.new_group(backend="gloo") if sharded else None

    def save(
        self,
        weights: Mapping[str, Tensor],
        meta: Meta,
        *,
        state: Mapping[str, Tensor],
        keep_too: Collection[int] = (),
    ) -> None:
        """Start to save the step that `meta` names; waits for the checkpoint before it. Every rank calls this.

        weights: see `Parallel.weights`. state: see `training_state`. keep_too: steps to be kept however old.
        """
        self.wait()
        self._step = meta.step
        path = self._folder.checkpoint(meta.step)
        if self._sharded:
            self._save_shares(path, weights, meta, state, keep_too)
        elif self._world.leads:
            copies = _copied({**weights, **{f"{STATE}/{name}": tensor for name, tensor in state.items()}})
            parts = {name: copies[name] for name in weights}
            memory = {name: copies[f"{STATE}/{name}"] for name in state}
            self._pending = self._pool.submit(self._write, path, parts, meta, memory, keep_too)

    def wait(self, *, last: bool = False) -> None:
        """Until what was begun is on disk. Tells of a failure; or raises `NotSaved`, on every rank, if it is the `last`
        checkpoint, after which nothing would be tried again."""
        jobs = [job for job in (self._pending, self._shares) if job is not None]
        self._pending = self._shares = None
        reasons = [reason_of(error) for job in jobs if (error := job.exception()) is not None]
        reason = reasons[0] if reasons else None
        if last:
            reason = next((found for found in self._world.gather(reason) if found is not None), None)
        if reason is None:
            return
        if last:
            raise NotSaved(self._message(reason))
        self._say(f"warning: {self._message(reason)} Training goes on; the next checkpoint is tried as planned.")

    def close(self) -> None:
        self._pool.shutdown()

    def _write(
        self,
        path: Path,
        weights: Mapping[str, Tensor],
        meta: Meta,
        state: Mapping[str, Tensor],
        keep_too: Collection[int],
    ) -> None:
        save_checkpoint(path, weights, meta, state=state)
        self._forget(keep_too)

    def _save_shares(
        self,
        path: Path,
        weights: Mapping[str, Tensor],
        meta: Meta,
        state: Mapping[str, Tensor],
        keep_too: Collection[int],
    ) -> None:
        """Every rank writes its share of the state; the leader adds the rest when all are done."""
        place = path.with_name(f".{path.name}.shares")
        if self._world.leads:
            shutil.rmtree(place, ignore_errors=True)
            (place / STATE).mkdir(parents=True)
        self._world.from_leader(None)
        writer = HuggingFaceStorageWriter(str(place / STATE), save_distributed=True)
        entries = {name: tensor.detach() for name, tensor in state.items()}
        assert isinstance(self._group, dist.ProcessGroup)
        shares = cast("Future[None]", async_save(entries, storage_writer=writer, process_group=self._group))
        self._shares = shares
        if self._world.leads:
            copies = _copied(weights)
            self._pending = self._pool.submit(self._join_shares, shares, place, path, copies, meta, keep_too)

    def _join_shares(
        self,
        shares: Future[None],
        place: Path,
        path: Path,
        weights: Mapping[str, Tensor],
        meta: Meta,
        keep_too: Collection[int],
    ) -> None:
        shares.result()
        with replaced_folder(path) as fresh:
            (place / STATE).rename(fresh / STATE)
            complete(fresh, weights, meta)
        place.rmdir()
        self._forget(keep_too)

    def _forget(self, keep_too: Collection[int]) -> None:
        kept = {self._folder.checkpoint(step) for step in keep_too}
        for folder in self._folder.steps[: -self._keep]:
            if folder not in kept:
                shutil.rmtree(folder)

    def _message(self, reason: str) -> str:
        saved = self._folder.steps
        good = f"{saved[-1]} is whole and stays." if saved else "There is no earlier one."
        free = shutil.disk_usage(self._folder.path).free / 2**20
        return (
            f"the checkpoint of step {self._step} could not be written: {reason} ({free:,.0f} MiB are free now in "
            f"{self._folder.path}). {good} Make room."
        )


def set_aside(folder: RunFolder, *, after: int) -> list[Path]:
    """Take the checkpoints of steps after this one out of the run's way; returns their new places."""
    moved = []
    for newer in folder.steps:
        if step_of(newer) > after:
            aside = newer.with_name(f"{newer.name}.aside")
            shutil.rmtree(aside, ignore_errors=True)
            moved.append(newer.rename(aside))
    return moved


def reason_of(failure: BaseException) -> str:
    """Why writing failed, in one line. Raises the failure if it is no matter of the disk."""
    if isinstance(failure, OSError) and failure.strerror:
        return failure.strerror
    if isinstance(failure, (OSError, SafetensorError, CheckpointException)):
        text = str(failure).strip().splitlines()[-1]
        number = re.search(r"\(os error (\d+)\)$", text)  # safetensors' words for an OSError
        return os.strerror(int(number[1])) if number else text
    raise failure


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the host; what shares its memory still does."""
    copies: dict[tuple[object, ...], Tensor] = {}
    found = {}
    for name, tensor in tensors.items():
        place = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if tensor.numel() else (name,)
        if place not in copies:
            copies[place] = tensor.detach().to("cpu", copy=True)
        found[name] = copies[place]
    return found
