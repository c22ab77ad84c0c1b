"""COCO, LVIS and Objects365: where they are looked for, and what to download and where to put it. Imports no torch."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from codetr.data.config import DataConfig, Split
from codetr.data.formats.found import AnySplit, Found
from codetr.data.formats.json_files import coco_files, finder, lvis_files, objects365_files
from codetr.errors import UserError, suggestion

VARIABLE = "CODETR_DATA"


@dataclass(frozen=True)
class KnownDataset:
    """folders: names of its folder. find: a split in one. instructions: what to download, and the tree it makes."""

    folders: tuple[str, ...]
    find: Callable[[Path, AnySplit], Found | None]
    instructions: str


_COCO = """\
COCO 2017 is at https://cocodataset.org/#download:
  http://images.cocodataset.org/zips/train2017.zip                          18 GB, 118,287 images
  http://images.cocodataset.org/zips/val2017.zip                             1 GB, 5,000 images
  http://images.cocodataset.org/annotations/annotations_trainval2017.zip   241 MB
Unpack them so that there are
  DIR/
    annotations/instances_train2017.json
    annotations/instances_val2017.json
    train2017/000000000009.jpg ...
    val2017/000000000139.jpg ..."""

_LVIS = """\
LVIS v1 is at https://www.lvisdataset.org/dataset; its images are COCO's (its val has images of train2017 too):
  https://dl.fbaipublicfiles.com/LVIS/lvis_v1_train.json.zip         1 GB unpacked, 100,170 images
  https://dl.fbaipublicfiles.com/LVIS/lvis_v1_val.json.zip         192 MB unpacked, 19,809 images
  http://images.cocodataset.org/zips/train2017.zip                  18 GB
  http://images.cocodataset.org/zips/val2017.zip                     1 GB
Unpack them so that there are
  DIR/
    annotations/lvis_v1_train.json   (or directly in DIR)
    annotations/lvis_v1_val.json     (or lvis_v1_minival.json)
    train2017/000000000009.jpg ...   (or in DIR/images/, or in a folder `coco` beside DIR)
    val2017/000000000139.jpg ..."""

_OBJECTS365 = """\
Objects365 v2 is at https://www.objects365.org/, its archives under
URL = https://dorc.ks3-cn-beijing.ksyun.com/data-set/2020Objects365%E6%95%B0%E6%8D%AE%E9%9B%86:
  URL/train/zhiyuan_objv2_train.tar.gz            annotations of 1,742,289 images
  URL/train/patch0.tar.gz ... patch50.tar.gz      images, about 345 GB in all with those of val
  URL/val/zhiyuan_objv2_val.json                  257 MB, 80,000 images
  URL/val/images/v1/patch0.tar.gz ... patch15.tar.gz
  URL/val/images/v2/patch16.tar.gz ... patch43.tar.gz
Unpack them so that there are
  DIR/
    annotations/zhiyuan_objv2_train.json   (or directly in DIR, or in train/)
    annotations/zhiyuan_objv2_val.json     (or directly in DIR, or in val/)
    train/patch0/objects365_v1_....jpg ...  (or images/train/patch0/..., or without the patch folders)
    val/patch0/objects365_v1_....jpg ..."""

KNOWN: dict[str, KnownDataset] = {
    "coco": KnownDataset(("coco", "coco2017"), finder(coco_files), _COCO),
    "lvis": KnownDataset(("lvis", "lvis_v1", "coco", "coco2017"), finder(lvis_files), _LVIS),
    "objects365": KnownDataset(("objects365", "objects365v2", "Objects365"), finder(objects365_files), _OBJECTS365),
}


def find(name: str, config: DataConfig) -> DataConfig:
    """The same settings for a known data set: coco, lvis or objects365.

    Looked for in `data.dir`, then in $CODETR_DATA, ./data and ./datasets, in a folder of its name (LVIS also in that
    of COCO). The first place with a validation split is taken.

    Raises: UserError if it is in none, with what to download.
    """
    if name not in KNOWN:
        raise UserError(f"--dataset {name}: no known data set; {suggestion(name, KNOWN, kind='names')}")
    known = KNOWN[name]
    places = _places(known, config)
    for place in places:
        val = known.find(place, "val")
        if val is not None:
            train = known.find(place, "train")
            # Named file by file: a folder may hold COCO's annotations beside those of LVIS.
            splits = {
                "train": Split(annotations=train.path.resolve() if train is not None else None),
                "val": Split(annotations=val.path.resolve()),
            }
            return config.model_copy(update={"dir": place, "synthetic": None, **splits})
    looked = ", ".join(f"{place}/" for place in places)
    advice = f"Give data=DIR, or set {VARIABLE} to the folder that holds {known.folders[0]}/."
    raise UserError(f"{name} was not found; looked in {looked}. {advice}\n{known.instructions}")


def instructions(name: str) -> str:
    """What to download of a known data set, and where to put it."""
    return KNOWN[name].instructions


def help_for(root: Path) -> str | None:
    """The instructions for a data folder that has the name of a known data set, else None."""
    name = root.resolve().name.lower()
    for known in KNOWN.values():
        if name in (folder.lower() for folder in known.folders):
            return known.instructions.replace("DIR", str(root))
    return None


def _places(known: KnownDataset, config: DataConfig) -> list[Path]:
    bases = [Path(os.environ[VARIABLE])] if os.environ.get(VARIABLE) else []
    bases += [Path("data"), Path("datasets")]
    own = [config.dir] if config.dir is not None else []
    return own + [base / folder for base in bases for folder in known.folders]
