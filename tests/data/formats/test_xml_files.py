from __future__ import annotations

from pathlib import Path

import pytest

from codetr.data.formats.xml_files import parse_xml
from codetr.errors import UserError


def test_elements_texts_and_escapes(tmp_path: Path) -> None:
    path = tmp_path / "a.xml"
    path.write_bytes(
        "<?xml version='1.0' encoding='latin-1'?><a><b>caf\xe9 &amp; &#65;</b><!-- no --></a>".encode("latin-1")
    )
    assert parse_xml(path).findtext("b") == "caf\xe9 & A"


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE a [<!ENTITY x SYSTEM 'file:///etc/passwd'>]><a>&x;</a>",
        "<!DOCTYPE a [<!ENTITY x 'ha'><!ENTITY y '&x;&x;&x;&x;&x;&x;&x;&x;'>]><a>&y;</a>",
        "<!DOCTYPE a SYSTEM 'http://localhost/a.dtd'><a/>",
        "<!DOCTYPE a><a/>",
    ],
)
def test_a_document_type_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.xml: .*it declares a document type"):
        parse_xml(path)


@pytest.mark.parametrize(
    "text", ["", "<a>", "<a></b>", "text", "<?xml version='1.0' encoding='nobody'?><a/>", "<a>&x;</a>"]
)
def test_what_is_no_xml_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(UserError, match=r"a\.xml: not valid XML"):
        parse_xml(path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read"):
        parse_xml(tmp_path / "a.xml")
