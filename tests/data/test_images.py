from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from codetr.data import images
from codetr.data.images import BadImage, load_image


def _noise(mode: str, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (19, 23, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


def test_load_image_gives_channels_first_rgb(tmp_path: Path) -> None:
    Image.fromarray(np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], dtype=np.uint8)).save(tmp_path / "x.png")
    expected = torch.tensor([[[255, 0, 0]], [[0, 255, 0]], [[0, 0, 255]]], dtype=torch.uint8)
    loaded = load_image(tmp_path / "x.png")
    assert torch.equal(loaded, expected)
    assert loaded.is_contiguous()


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"])
def test_every_png_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    if mode == "I;16":
        Image.fromarray(np.full((19, 23), 0x8034, dtype=np.uint16)).save(tmp_path / "x.png")
    else:
        _noise(mode).save(tmp_path / "x.png")
    loaded = load_image(tmp_path / "x.png")
    assert loaded.shape == (3, 19, 23)
    if mode in ("1", "L", "LA", "I;16"):
        assert torch.equal(loaded[0], loaded[1]) and torch.equal(loaded[0], loaded[2])
    if mode == "I;16":
        assert loaded.unique().tolist() == [0x80]  # the upper byte, not clipped to white


def test_palette_with_transparency_keeps_its_colours(tmp_path: Path) -> None:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 200, 100, 50] + [0] * 762)
    picture.putdata([0, 1])
    picture.save(tmp_path / "x.png", transparency=bytes([0, 255]))
    assert load_image(tmp_path / "x.png").flatten(1).T.tolist() == [[10, 20, 30], [200, 100, 50]]


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("subsampling", [0, 2])
def test_jpeg_decoders_give_the_same_pixels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, progressive: bool, subsampling: int
) -> None:
    pytest.importorskip("simplejpeg")
    file = tmp_path / "x.jpg"
    _noise(mode).save(file, progressive=progressive, subsampling=subsampling)
    fast = load_image(file)
    monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    assert torch.equal(fast, load_image(file))
    with Image.open(file) as picture:
        assert torch.equal(fast, torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1))


def test_real_photographs_decode_like_pillow(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    for file in sorted((shared / "data/coco_cc/images").glob("*.jpg"))[:12]:
        fast = load_image(file)
        with monkeypatch.context() as context:
            context.setattr(images, "_simplejpeg", lambda: None)
            assert torch.equal(fast, load_image(file)), file


def test_exif_orientation_is_ignored(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[images.EXIF_ORIENTATION] = 6
    _noise("RGB").save(tmp_path / "x.jpg", exif=exif)
    assert load_image(tmp_path / "x.jpg").shape == (3, 19, 23)
    assert images.is_turned(tmp_path / "x.jpg")
    _noise("RGB").save(tmp_path / "y.jpg")
    assert not images.is_turned(tmp_path / "y.jpg")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("content", ["truncated", "text", "empty", "header only"])
def test_a_broken_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, fast: bool) -> None:
    buffer = BytesIO()
    _noise("RGB").save(buffer, "JPEG", quality=95)
    whole = buffer.getvalue()
    parts = {"truncated": whole[: len(whole) // 2], "text": b"hello", "empty": b"", "header only": whole[:4]}
    file = tmp_path / "broken.jpg"
    file.write_bytes(parts[content])
    if not fast:
        monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    with pytest.raises(BadImage, match=r"broken\.jpg"):
        load_image(file)


def test_decoders_agree_on_what_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("simplejpeg")
    buffer = BytesIO()
    _noise("RGB").save(buffer, "JPEG")
    whole = buffer.getvalue()
    verdicts = []
    for fast in (True, False):
        if not fast:
            monkeypatch.setattr(images, "_simplejpeg", lambda: None)
        verdicts.append([_is_readable(whole[:end], tmp_path) for end in range(len(whole) - 40, len(whole) + 1)])
    assert verdicts[0] == verdicts[1]
    assert verdicts[0][-1] and not verdicts[0][0]


def _is_readable(content: bytes, folder: Path) -> bool:
    try:
        images.decode(content, folder / "x.jpg")
    except BadImage:
        return False
    return True


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.new("F", (4, 4)).save(tmp_path / "x.tiff")
    with pytest.raises(BadImage, match="floating-point"):
        load_image(tmp_path / "x.tiff")


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(BadImage, match=r"none\.jpg: cannot be read"):
        load_image(tmp_path / "none.jpg")


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize(("limit", "size"), [(1200, (30, 40)), (1199, (15, 20)), (299, (8, 10)), (79, (4, 5))])
def test_a_large_jpeg_is_decoded_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fast: bool, limit: int, size: tuple[int, int]
) -> None:
    if not fast:
        monkeypatch.setattr(images, "_simplejpeg", lambda: None)
    Image.new("RGB", (40, 30), (200, 100, 50)).save(tmp_path / "x.jpg")
    loaded = load_image(tmp_path / "x.jpg", max_pixels=limit)
    assert loaded.shape == (3, *size)
    assert images.reduced((30, 40), images.reduction((30, 40), limit)) == size
    np.testing.assert_allclose(loaded.float().mean((1, 2)), [200, 100, 50], atol=2)  # the error of coding one colour


@pytest.mark.parametrize(
    ("name", "options", "limit", "reason"),
    [
        ("x.png", {}, 1199, "and a PNG is decoded whole (about 0.0 GB)"),
        ("x.webp", {}, 1199, "and a WEBP is decoded whole"),
        ("x.jpg", {"progressive": True}, 1199, "and a progressive JPEG is decoded whole"),
        ("x.jpg", {}, 19, "and it stays larger at an eighth of its size"),
    ],
)
def test_what_must_be_decoded_whole_is_refused(
    tmp_path: Path, name: str, options: dict[str, bool], limit: int, reason: str
) -> None:
    Image.new("RGB", (40, 30)).save(tmp_path / name, **options)
    with pytest.raises(images.TooManyPixels) as caught:
        load_image(tmp_path / name, max_pixels=limit)
    assert f"{name}: 40 x 30 pixels are more than data.max_pixels={limit}, {reason}" in str(caught.value)
    assert caught.value.size == (30, 40)


def test_pillows_own_limit_plays_no_part_and_is_left_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _noise("RGB").save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    assert load_image(tmp_path / "x.png").shape == (3, 19, 23)
    with images._PILLOW_LIMIT.lifted():
        assert images.image_size(tmp_path / "x.png") == (19, 23)
        assert Image.MAX_IMAGE_PIXELS is None
    assert Image.MAX_IMAGE_PIXELS == 7
    with pytest.raises(BadImage), images._opened(tmp_path / "none.png", tmp_path / "none.png"):
        pass
    assert Image.MAX_IMAGE_PIXELS == 7


def test_the_orientation_of_a_png_is_read_without_its_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exif = Image.Exif()
    exif[0x0112] = 8
    _noise("RGB").save(tmp_path / "x.png", exif=exif)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    assert images.orientation(tmp_path / "x.png") == 8
    assert images.orientation(b"no image") == 1
