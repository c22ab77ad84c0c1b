from __future__ import annotations

import pytest

from codetr.data import lettering
from codetr.data.lettering import font_for, plain_font


def test_latin_letters_need_no_other_font() -> None:
    font, text = font_for("cafe [red] <b>", 20)
    assert text == "cafe [red] <b>" and font is plain_font(20)


@pytest.mark.parametrize(("text", "drawn"), [("a\nb", "a\\nb"), ("x\x1b[31m", "x\\x1b[31m"), ("a\u202eb", "a\\u202eb")])
def test_control_characters_become_escapes(text: str, drawn: str) -> None:
    assert font_for(text, 20)[1] == drawn


def test_letters_that_no_font_has_become_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lettering, "_FALLBACKS", ())
    lettering._fonts.cache_clear()
    try:
        assert font_for("cat \u732b", 20)[1] == "cat \\u732b"
        assert font_for("\U0001f600", 20)[1] == "\\U0001f600"
    finally:
        lettering._fonts.cache_clear()


def test_a_font_of_the_system_is_taken_where_it_has_the_letters() -> None:
    fonts = lettering._fonts(20)
    if all(name != "DejaVuSans.ttf" for name, _ in fonts):
        pytest.skip("DejaVu Sans is not installed")
    font, text = font_for("\u043a\u043e\u0448\u043a\u0430 \u0642\u0637\u0629", 20)
    assert font.getname()[0] == "DejaVu Sans" and "\\" not in text
