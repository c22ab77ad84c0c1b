from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from codetr.data import duplicates
from codetr.data.duplicates import COARSE, FINE, SIDE, Alike, Words, alike_between, alike_earlier, fingerprint
from codetr.data.images import shrunk


def hashed(image: Image.Image) -> Words:
    found = fingerprint(shrunk(image, SIDE))
    assert found is not None
    return found


def flipped(words: Words, bits: list[int]) -> Words:
    """A hash that differs in some bits of its first word."""
    changed = words.copy()
    for bit in bits:
        changed[0] ^= np.uint64(1) << np.uint64(bit)
    return changed


def some(number: int, seed: int = 0) -> list[Words]:
    draw = np.random.default_rng(seed)
    return [draw.integers(0, 2**63, 10, dtype=np.uint64) for _ in range(number)]


def test_an_image_of_one_colour_has_no_hash() -> None:
    assert fingerprint(np.full((SIDE, SIDE), 90, dtype=np.uint8)) is None


def test_a_hash_holds_half_of_the_low_frequencies_and_is_that_of_the_mirror_image_too() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE), dtype=np.uint8)
    words, mirrored = fingerprint(grey), fingerprint(grey[:, ::-1])
    assert words is not None and mirrored is not None
    assert np.array_equal(words[5:], mirrored[:5]) and np.array_equal(words[:5], mirrored[5:])
    ones = [bin(int(word)).count("1") for word in words]
    # As many above the median as below, but for the mean itself, which the median leaves out.
    assert ones[0] in (31, 32) and sum(ones[1:5]) in (127, 128)


def test_frequencies_are_those_of_scipy() -> None:
    from scipy.fft import dctn

    grey = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE)).astype(np.float64)
    wave = duplicates._cosines()
    np.testing.assert_allclose(4 * (wave @ grey @ wave.T), dctn(grey)[:16, :16], atol=1e-6)


@pytest.mark.parametrize("bits", [0, 1, COARSE, COARSE + 1])
def test_the_limit_is_exact_wherever_the_bits_lie(bits: int) -> None:
    (words,) = some(1)
    for seed in range(40):
        places = np.random.default_rng(seed).permutation(64)[:bits].tolist()
        found = alike_between({7: flipped(words, places)}, {3: words})
        assert found == ({7: Alike(3, 0, False)} if bits <= COARSE else {}), places


def test_the_fine_hash_has_to_agree_too() -> None:
    (words,) = some(1)
    for bits in (FINE, FINE + 1):
        other = words.copy()
        places = np.random.default_rng(bits).permutation(256)[:bits]
        for place in places.tolist():
            other[1 + place // 64] ^= np.uint64(1) << np.uint64(place % 64)
        assert alike_between({0: other}, {0: words}) == ({0: Alike(0, FINE, False)} if bits == FINE else {})


def test_the_nearest_earlier_one_is_named() -> None:
    a, b = some(2)
    near = a.copy()
    near[1] ^= np.uint64(0b111)
    nearer = near.copy()
    nearer[1] ^= np.uint64(1)
    found = alike_earlier({10: a, 20: b, 30: near, 40: nearer, 50: b})
    assert found == {30: Alike(10, 3, False), 40: Alike(30, 1, False), 50: Alike(20, 0, False)}


def test_search_finds_what_comparing_all_pairs_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_CHUNK", 1000)
    draw = np.random.default_rng(5)
    prints = some(150, seed=2)
    for index in range(150):  # near ones of all degrees
        prints.append(flipped(prints[index], draw.permutation(64)[: draw.integers(1, 14)].tolist()))
    found = alike_earlier(dict(enumerate(prints)))
    rows = np.stack(prints)

    def bits(a: Words, b: Words) -> int:
        return sum(bin(int(x ^ y)).count("1") for x, y in zip(a, b, strict=True))

    expected = {}
    for i in range(len(rows)):
        close = [(bits(rows[i, 1:5], rows[j, 1:5]), j) for j in range(i) if bits(rows[i, :1], rows[j, :1]) <= COARSE]
        close = [(distance, j) for distance, j in close if distance <= FINE]
        if close:
            expected[i] = Alike(min(close)[1], min(close)[0], False)
    assert len(expected) > 50
    assert found == expected


def test_both_ways_of_counting_bits_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.stack(some(20))
    expected = [
        [bin(int(a ^ b)).count("1") for a, b in zip(x, y, strict=True)] for x, y in zip(rows, rows[::-1], strict=True)
    ]
    assert duplicates._distance(rows, rows[::-1]).tolist() == [sum(counts) for counts in expected]
    monkeypatch.delattr(np, "bitwise_count", raising=False)
    assert duplicates._distance(rows, rows[::-1]).tolist() == [sum(counts) for counts in expected]


def test_nothing_is_alike_among_none() -> None:
    assert alike_earlier({}) == {} and alike_between({}, {1: some(1)[0]}) == {}


def _again(image: Image.Image) -> Image.Image:
    file = BytesIO()
    image.save(file, "jpeg", quality=20)
    return Image.open(file)


def _crop(image: Image.Image, share: float) -> Image.Image:
    x, y = round(image.width * share), round(image.height * share)
    return image.crop((x, y, image.width - x, image.height - y))


COPIES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "quality": _again,
    "quarter": lambda image: image.resize((image.width // 4, image.height // 4)),
    "square": lambda image: image.resize((300, 300)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.6),
    "brighter": lambda image: ImageEnhance.Brightness(image).enhance(1.3),
    "grey": lambda image: image.convert("L"),
    "mirrored": lambda image: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "cropped": lambda image: _crop(image, 0.01),
}


def test_photographs_and_their_copies(shared: Path) -> None:
    """Every copy is found, and no two photographs are taken for one another."""
    files = sorted((shared / "data/coco_cc/images").glob("*.jpg"))[:24]
    originals = {}
    for index, file in enumerate(files):
        with Image.open(file) as opened:
            originals[index] = opened.convert("RGB")
    prints = {index: hashed(image) for index, image in originals.items()}
    assert alike_earlier(prints) == {}
    for name, change in COPIES.items():
        found = alike_between({index: hashed(change(image)) for index, image in originals.items()}, prints)
        assert {index: alike.other for index, alike in found.items()} == {index: index for index in originals}, name
        assert {alike.is_mirrored for alike in found.values()} == {name == "mirrored"}, name
