"""Shards are written once, the same again, and go on after a kill; they are read as files are."""

from __future__ import annotations

import errno
import gc
import hashlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import codetr.data.pack as packing
from codetr.data.coco import CocoDataset, open_split
from codetr.data.config import DataConfig
from codetr.data.images import BadImage
from codetr.data.pack import pack, verify
from codetr.data.shards import OPEN_SHARDS, Shards, read_index
from codetr.errors import UserError

NAMES = ["b.png", "ü 1.PNG", "a.png", "x.v2.png", "noend", "z.png", "q.png"]
IDS = [5, 12, 7, 900, 2, 31, 8]
SHARD = 10_240  # bytes: a tar file of two pictures of 4 kB


@pytest.fixture
def folder(write_coco, entries) -> Path:
    """Seven pictures, about 4 kB each; five boxes, one of them a crowd."""
    image, annotation = entries
    images = [image(i, name) for i, name in zip(IDS, NAMES, strict=True)]
    images[4]["file_name"] = "noend.png"
    boxes = [annotation(n, IDS[n % 5], 3 + 4 * (n % 2), [2, 3, 10 + n, 12]) for n in range(4)]
    root: Path = write_coco(images, [*boxes, annotation(9, 5, 3, [0, 0, 9, 9], iscrowd=1)])
    (root / "images" / "noend.png").rename(root / "images" / "noend")
    path = root / "annotations" / "instances_train.json"
    path.write_text(path.read_text().replace("noend.png", "noend"))
    return root


@pytest.fixture
def packed(folder: Path, tmp_path: Path) -> Path:
    pack(DataConfig(dir=folder), "train", tmp_path / "out", shard_bytes=SHARD)
    return tmp_path / "out"


def _contents(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_what_is_written(folder: Path, packed: Path) -> None:
    """Files as they were, named by id; annotations but for the names."""
    shards = sorted((packed / "shards" / "train").glob("*.tar"))
    assert [shard.name for shard in shards] == [f"00000{number}.tar" for number in range(4)]
    assert all(shard.stat().st_size <= SHARD for shard in shards)
    found = {}
    for shard in shards:
        with tarfile.open(shard) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content is not None
                found[member.name] = content.read()
                assert (member.mtime, member.uid, member.mode) == (0, 0, 0o644)
    suffixes = {2: ".img"}
    expected = {f"{i:012d}{suffixes.get(i, '.png')}": name for i, name in zip(IDS, NAMES, strict=True)}
    assert found == {key: (folder / "images" / name).read_bytes() for key, name in expected.items()}
    ours, theirs = (
        json.loads((root / "annotations" / "instances_train.json").read_text()) for root in (packed, folder)
    )
    assert ours["annotations"] == theirs["annotations"] and ours["categories"] == theirs["categories"]
    for mine, other in zip(ours["images"], theirs["images"], strict=True):
        assert mine == {**other, "file_name": mine["file_name"], "original_file_name": other["file_name"]}
        assert expected[mine["file_name"]] == other["file_name"]
    assert {path.name for path in (packed / "shards" / "train").iterdir()} == {
        "index.npz",
        *(shard.name for shard in shards),
    }


def test_names_that_are_right_already_stay(write_coco, entries, tmp_path: Path) -> None:
    image, _ = entries
    root = write_coco([image(139, "000000000139.png")], [])
    pack(DataConfig(dir=root), "train", tmp_path / "out")
    content = json.loads((tmp_path / "out" / "annotations" / "instances_train.json").read_text())
    assert content["images"] == [image(139, "000000000139.png")]


def test_tar_unpacks_them(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for shard in (packed / "shards" / "train").glob("*.tar"):
        subprocess.run(["tar", "xf", str(shard), "-C", str(tmp_path / "images")], check=True)
    dataset = CocoDataset(packed / "annotations" / "instances_train.json", tmp_path / "images")
    assert len(dataset) == 7


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves its last file open
def test_webdataset_reads_them(packed: Path, folder: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    shards = sorted(str(shard) for shard in (packed / "shards" / "train").glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    gc.collect()
    assert sorted(int(sample["__key__"]) for sample in samples) == sorted(IDS)
    names = dict(zip(IDS, NAMES, strict=True))
    for sample in samples:
        content = sample.get("png", sample.get("img"))
        assert content == (folder / "images" / names[int(sample["__key__"])]).read_bytes()


def test_the_same_images_give_the_same_bytes(folder: Path, packed: Path, tmp_path: Path) -> None:
    pack(DataConfig(dir=folder), "train", tmp_path / "again", shard_bytes=SHARD)
    assert _contents(tmp_path / "again") == _contents(packed)


def test_images_that_lie_together_have_nothing_in_common(write_coco, entries, tmp_path: Path) -> None:
    image, _ = entries
    root = write_coco([image(n, f"{n}.png", 8, 8) for n in range(200)], [])
    pack(DataConfig(dir=root), "train", tmp_path / "out")
    ids = np.array(read_index(tmp_path / "out" / "shards" / "train").ids)
    offsets = read_index(tmp_path / "out" / "shards" / "train").offsets
    # Of 200 numbers in random order the rank correlation has a deviation of 1 / sqrt(199) = 0.07.
    assert abs(np.corrcoef(ids, np.argsort(np.argsort(offsets)))[0, 1]) < 0.3


def _same(left: CocoDataset, right: CocoDataset) -> bool:
    for a, b in zip(left, right, strict=True):  # type: ignore[call-overload]
        assert (a.info.image_id, a.info.size) == (b.info.image_id, b.info.size)
        assert all(
            (x == y).all()
            for x, y in (
                (a.image, b.image),
                (a.boxes, b.boxes),
                (a.labels, b.labels),
                (a.ignore_boxes, b.ignore_boxes),
            )
        )
    return len(left) == len(right)


def test_samples_are_those_of_the_files(folder: Path, packed: Path) -> None:
    files, shards = (open_split(DataConfig(dir=root), "train") for root in (folder, packed))
    assert _same(files, shards)
    assert files.shard_numbers() is None
    assert shards.infos[0].file == str(packed / "shards" / "train" / "000001.tar" / "000000000005.png")
    numbers = shards.shard_numbers()
    assert numbers is not None and sorted(set(numbers)) == [0, 1, 2, 3]
    assert _same(files, pickle.loads(pickle.dumps(shards)))


def test_a_finished_folder_is_left_alone(folder: Path, packed: Path) -> None:
    before = _contents(packed), os.stat(packed / "shards" / "train" / "000001.tar").st_mtime_ns
    again = pack(DataConfig(dir=folder), "train", packed, shard_bytes=SHARD)
    assert (again.images, again.shards, again.kept) == (7, 4, 4)
    assert before == (_contents(packed), os.stat(packed / "shards" / "train" / "000001.tar").st_mtime_ns)


def test_a_shard_that_was_lost_or_cut_is_written_again(folder: Path, packed: Path) -> None:
    before = _contents(packed)
    (packed / "shards" / "train" / "000001.tar").unlink()
    os.truncate(packed / "shards" / "train" / "000002.tar", 1000)
    assert pack(DataConfig(dir=folder), "train", packed, shard_bytes=SHARD).kept == 2
    assert _contents(packed) == before


KILLED = """
import os, signal, sys
from pathlib import Path
import codetr.data.pack as packing
from codetr.data.config import DataConfig

reads, at = 0, int(sys.argv[3])
read = packing.read_bytes
def fatal(file):
    global reads
    reads += 1
    if reads == at:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(file)
packing.read_bytes = fatal
packing.pack(DataConfig(dir=Path(sys.argv[1])), "train", Path(sys.argv[2]), shard_bytes=int(sys.argv[4]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="nothing is killed there")
def test_a_killed_run_goes_on(folder: Path, packed: Path, tmp_path: Path) -> None:
    """In the middle of the second shard of four."""
    out = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(folder), str(out), "4", str(SHARD)]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    first = out / "shards" / "train" / "000000.tar"
    assert [path.name for path in first.parent.glob("*.tar")] == ["000000.tar"]
    with pytest.raises(UserError, match=r"packing was not finished; the same `codetr data pack` again goes on"):
        open_split(DataConfig(dir=out), "train")
    written = first.stat().st_mtime_ns
    assert pack(DataConfig(dir=folder), "train", out, shard_bytes=SHARD).kept == 1
    assert first.stat().st_mtime_ns == written
    assert _contents(out) == _contents(packed)


def _refused(message: str, call: Callable[[], Any]) -> None:
    with pytest.raises(UserError, match=message):
        call()


def test_what_is_refused(folder: Path, packed: Path, tmp_path: Path) -> None:
    config = DataConfig(dir=folder)
    _refused("it holds shards of other images or of another size", lambda: pack(config, "train", packed))
    _refused("these are shards already", lambda: pack(DataConfig(dir=packed), "train", tmp_path / "two"))
    (folder / "images" / "a.png").unlink()
    _refused(r"1 of 7 images are not in .*: a.png \(image id 7\)", lambda: pack(config, "train", tmp_path / "three"))
    assert not (tmp_path / "three").exists()


def test_an_image_that_changes_while_it_is_packed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "read_bytes", lambda file: b"something else")
    _refused("it changed while it was packed", lambda: pack(DataConfig(dir=folder), "train", tmp_path / "out"))
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_a_disk_that_is_too_small(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
    _refused(
        r"out: the disk has 0.0 GB free, the shards need 0.0 GB",
        lambda: pack(DataConfig(dir=folder), "train", tmp_path / "out"),
    )


def test_a_disk_that_fills_up(folder: Path, packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second shard; the first one stays, and the rest is made when there is room."""
    out, synced = tmp_path / "full", os.fsync

    def full(descriptor: int) -> None:
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(".000001.tar.part"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        synced(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        _refused(
            r"full: cannot be written \(No space left on device\); the same command goes on from the shards that are",
            lambda: pack(DataConfig(dir=folder), "train", out, shard_bytes=SHARD),
        )
    assert not list(out.rglob("*.part"))
    assert pack(DataConfig(dir=folder), "train", out, shard_bytes=SHARD).kept == 1
    assert _contents(out) == _contents(packed)


def test_damage_is_told_of(packed: Path) -> None:
    verify(packed / "shards" / "train")
    dataset = open_split(DataConfig(dir=packed), "train")
    index = read_index(packed / "shards" / "train")
    row = IDS.index(900)
    place = int(index.offsets[list(index.ids).index(900)])
    shard = Path(dataset.infos[row].file).parent
    content = bytearray(shard.read_bytes())
    content[place + 2000] ^= 1
    shard.write_bytes(content)
    name = r"000000000900[^ ]*: its bytes are not those that were packed \(checksum\)"
    for call in (lambda: dataset[row], lambda: verify(packed / "shards" / "train")):
        with pytest.raises(BadImage, match=name):
            call()  # type: ignore[operator]
    shard.write_bytes(content[:-512])
    (packed / "shards" / "train" / ("000000.tar" if shard.name != "000000.tar" else "000001.tar")).unlink()
    _refused(
        r"2 of 4 shards are not as they were packed: .*(missing.*bytes, packed|bytes, packed.*missing)",
        lambda: open_split(DataConfig(dir=packed), "train"),
    )


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 nothing", b"text"])
def test_an_index_that_cannot_be_read(packed: Path, content: bytes) -> None:
    (packed / "shards" / "train" / "index.npz").write_bytes(content)
    _refused("index.npz: not a readable index of shards", lambda: open_split(DataConfig(dir=packed), "train"))


@pytest.mark.parametrize(
    "name", ["1.png", "000000000005", "../5.png", "a/5.png", "5x.png", "--5.png", "9" * 30 + ".png", ""]
)
def test_names_of_images(packed: Path, name: str) -> None:
    found = Shards(packed / "shards" / "train").find(name)
    assert (found is None) == (name != "000000000005")


def test_few_shards_are_open_at_a_time(write_coco, entries, tmp_path: Path) -> None:
    image, _ = entries
    count = OPEN_SHARDS + 6
    root = write_coco([image(n, f"{n}.png", 8, 8) for n in range(count)], [])
    pack(DataConfig(dir=root), "train", tmp_path / "out", shard_bytes=1)  # one image each
    dataset = open_split(DataConfig(dir=tmp_path / "out"), "train")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for index in range(count):
            assert dataset[index].info.image_id == index
    assert len(os.listdir("/proc/self/fd")) - before == OPEN_SHARDS
    del dataset
    assert len(os.listdir("/proc/self/fd")) == before
