"""How many JPEG files a second one core decodes."""

from __future__ import annotations

import importlib.util
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from codetr.doctor.findings import Finding, pip_install
from codetr.doctor.importing import require

SIZE = (480, 640)
FILES, SECONDS = 4, 0.4
SLOW = 150
"""Images a second below which something is wrong with the machine: a slow core decodes twice as many."""


def check_images() -> list[Finding]:
    """Pictures of 480 x 640, written to a temporary folder, read and decoded with Pillow and with simplejpeg."""
    require("numpy"), require("PIL.Image")
    with tempfile.TemporaryDirectory(prefix="codetr-doctor-") as folder:
        files = _written(Path(folder))
        rates = {"Pillow": rate(_with_pillow, files)}
        if importlib.util.find_spec("simplejpeg") is not None:
            rates["simplejpeg"] = rate(_with_simplejpeg, files)
    return [judge_images(rates)]


def judge_images(rates: dict[str, float]) -> Finding:
    """rates: images a second on one core, by decoder."""
    shown = ", ".join(f"{name} {value:.0f}" for name, value in rates.items())
    found = f"JPEG files of {SIZE[0]} x {SIZE[1]} a second on one core: {shown}"
    if max(rates.values()) < SLOW:
        return Finding("images", "warning", f"{found}: slow; is the machine busy, or {tempfile.gettempdir()} remote?")
    if "simplejpeg" not in rates:
        return Finding("images", "note", f"{found}; simplejpeg is about twice as fast", pip_install("simplejpeg"))
    return Finding("images", "ok", found)


def rate(decode: Callable[[bytes], object], files: list[Path]) -> float:
    """Files a second; the first round is not counted."""
    for file in files:
        decode(file.read_bytes())
    begin, count = time.perf_counter(), 0
    while time.perf_counter() - begin < SECONDS:
        decode(files[count % len(files)].read_bytes())
        count += 1
    return count / (time.perf_counter() - begin)


def _written(folder: Path) -> list[Path]:
    """Smooth pictures with some noise: about 50 kB each, as photographs have."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    files = []
    for index in range(FILES):
        coarse = Image.fromarray(random.integers(0, 256, (12, 16, 3), dtype=np.uint8)).resize(SIZE[::-1])
        noisy = np.asarray(coarse).astype(np.int16) + random.integers(-8, 9, (*SIZE, 3))
        files.append(folder / f"{index}.jpg")
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(files[-1], quality=85)
    return files


def _with_pillow(content: bytes) -> object:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


def _with_simplejpeg(content: bytes) -> object:
    import simplejpeg

    return simplejpeg.decode_jpeg(content, "RGB")
