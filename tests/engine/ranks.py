"""Trainings on several gloo processes: a tiny spec, data for it, and how they are started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

SCRIPT = Path(__file__).with_name("train_as_rank.py")

SPEC = """
extends: [bases/deformable_detr_pp, backbones/resnet50]
base: {num_queries: 8, encoder_layers: 1, decoder_layers: 1, num_heads: 2, num_points: 2, ffn_dim: 16}
backbone: {model: resnet10t, pretrained: false, frozen_stages: -1, options: {channels: [8, 8, 8, 8], stem_width: 8}}
neck: {dim: 32, num_groups: 4, num_levels: 3}
data: {augment: null, resize: {size: 128, max_size: 128}, workers: 0}
train:
  {epochs: 1, batch_size: 2, milestones: [], device: cpu, threads: 1, log_every: 1, eval_every: 0, preflight: false}
"""


def write_data(root: Path, objects: tuple[int, ...]) -> Path:
    """Noise with so many objects on each image."""
    (root / "images").mkdir(parents=True)
    (root / "annotations").mkdir()
    images, boxes = [], []
    for image_id, count in enumerate(objects, start=1):
        noise = np.random.default_rng(image_id).integers(0, 256, (64, 64, 3)).astype(np.uint8)
        Image.fromarray(noise).save(root / "images" / f"{image_id}.png")
        images.append({"id": image_id, "file_name": f"{image_id}.png", "width": 64, "height": 64})
        for position in range(count):
            box = {"id": len(boxes) + 1, "image_id": image_id, "category_id": 5 + 4 * (position % 2), "iscrowd": 0}
            boxes.append({**box, "bbox": [4 + 16 * position, 8, 24, 40], "area": 960})
    content = {
        "images": images,
        "annotations": boxes,
        "categories": [{"id": 5, "name": "cat"}, {"id": 9, "name": "dog"}],
    }
    for split in ("train", "val"):
        (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(content))
    return root


def two_ranks(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run(*["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"], str(SCRIPT), *arguments)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300, env=environment)


def records(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
