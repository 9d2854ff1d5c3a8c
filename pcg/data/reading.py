"""Reading of a user's text files and folders: hidden files, encodings, ends of lines."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from pcg.files import absent, no_file

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """The content of a text file in UTF-8, or in the encoding of its byte-order mark.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it has another encoding; the message names the file and the line.
    """
    if problem := no_file(path):
        raise FileNotFoundError(problem)
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not {encoding.upper()} (line {line}, byte 0x{data[error.start]:02x}); save it as UTF-8, or as "
            "UTF-16 with a byte-order mark"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} holds zero bytes; save it as UTF-8, or as UTF-16 with a byte-order mark")
    return text


def lines_of(path: Path) -> list[str]:
    """The lines of a text file, as ``read_text`` reads it.

    Lines end only at ``\\n``, ``\\r\\n`` and ``\\r``. Pasted texts hold form feeds, U+0085 and U+2028, at which
    ``str.splitlines`` would cut an utterance in two and renumber all later ones.
    """
    lines = re.split(r"\r\n|\n|\r", read_text(path))
    return lines if lines[-1] else lines[:-1]


def visible(paths: Iterator[Path]) -> list[Path]:
    """The files by name, without hidden ones (``.DS_Store``, macOS's ``._a.txt`` beside ``a.txt``).

    Raises:
        FileNotFoundError: one is a broken link.
    """
    shown = sorted(path for path in paths if not path.name.startswith("."))
    for path in shown:
        if problem := absent(path):
            raise FileNotFoundError(problem)
    return [path for path in shown if path.is_file()]
