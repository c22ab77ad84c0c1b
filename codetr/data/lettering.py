"""Text on pictures: a font that has the letters, whatever script a class name is written in. Imports no torch."""

from __future__ import annotations

from functools import cache

from PIL import ImageFont

from codetr.errors import UserError

Font = ImageFont.FreeTypeFont

# Looked for by file name where the system keeps its fonts. The first that has all letters of a text is taken.
_FALLBACKS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-microhei.ttc",
    "DroidSansFallbackFull.ttf",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "arial.ttf",
)
_NO_CHARACTER = "\uffff"  # by definition, so a font draws its sign for a missing letter


def font_for(text: str, size: int) -> tuple[Font, str]:
    """A font of `size` pixels and the text that it can draw: letters that no font has become escapes such as \\u732b.

    Control characters and marks that change the direction of writing become escapes too.
    Raises: UserError if Pillow was built without FreeType.
    """
    text = "".join(letter if letter.isprintable() else _escape(letter) for letter in text)
    fonts = _fonts(size)
    for name, font in fonts:
        if all(_has(name, letter) for letter in text):
            return font, text
    name, font = max(fonts, key=lambda pair: sum(_has(pair[0], letter) for letter in text))
    return font, "".join(letter if _has(name, letter) else _escape(letter) for letter in text)


def plain_font(size: int) -> Font:
    """The font of Latin letters, by its size in pixels. Raises: UserError if Pillow was built without FreeType."""
    return _fonts(size)[0][1]


def reach(font: Font) -> tuple[int, int]:
    """How far letters reach above and below the baseline, the same for every label."""
    _, top, _, bottom = font.getbbox("Agjy|", anchor="ls")
    return round(-top), round(bottom)


@cache
def _fonts(size: int) -> tuple[tuple[str, Font], ...]:
    """Pillow's own font and those of the system, each with its name."""
    own = ImageFont.load_default(size=size)
    if not isinstance(own, ImageFont.FreeTypeFont):
        raise UserError(
            "this Pillow was built without FreeType, which labels need; install a wheel: pip install pillow"
        )
    found = [("", own)]
    for name in _FALLBACKS:
        try:
            found.append((name, ImageFont.truetype(name, size)))
        except OSError:  # not on this system
            continue
    return tuple(found)


@cache
def _has(name: str, letter: str) -> bool:
    """True if a font has a glyph for a letter. Pillow does not say, but every missing letter is drawn alike."""
    font = dict(_fonts(16))[name]
    missing, drawn = font.getmask(_NO_CHARACTER), font.getmask(letter)
    return letter == " " or (drawn.size, bytes(drawn)) != (missing.size, bytes(missing))


def _escape(letter: str) -> str:
    return ascii(letter)[1:-1] if not letter.isascii() or not letter.isprintable() else letter
