"""XML from strangers: elements alone. A file that declares a document type or an entity is refused."""

from __future__ import annotations

from pathlib import Path
from typing import NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from codetr.errors import UserError


def parse_xml(path: Path) -> Element:
    """The root element of a file.

    Raises: UserError if it cannot be read, is no XML, or has a document type declaration, without which there are
    neither external entities nor expansions of internal ones.
    """
    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.StartDoctypeDeclHandler = _refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(path.read_bytes(), True)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (expat.ExpatError, LookupError, ValueError) as error:  # not XML; an encoding that nobody knows
        raise UserError(f"{path}: not valid XML ({error}); the file may be incomplete") from error
    return builder.close()


def _refuse(*_: object) -> NoReturn:
    raise ValueError("it declares a document type, which annotations have no use for")
