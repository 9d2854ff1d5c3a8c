"""A user's folders and text files: which files count, which encoding a text is in; and how a hub's set gets there."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def read_text(path: Path) -> str:
    """A text file in UTF-8, or in the encoding that its byte-order mark tells.

    Raises:
        ValueError: naming the file and where it is something else.
    """
    data = path.read_bytes()
    encoding = next((name for mark, name in _MARKS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ValueError(
            f"{path} is not {encoding.upper()} (line {line}, byte 0x{data[error.start]:02x}): save it as UTF-8, or as "
            "UTF-16 with a byte-order mark"
        ) from error
    if "\0" in text:
        raise ValueError(f"{path} holds zero bytes: save it as UTF-8, or as UTF-16 with a byte-order mark")
    return text


def visible(paths: Iterator[Path]) -> list[Path]:
    """Files but for those that systems hide (``.DS_Store``, macOS's ``._a.txt`` beside ``a.txt``), by name."""
    return sorted(path for path in paths if not path.name.startswith(".") and path.is_file())


def how_to_fetch(hub_id: str, error: Exception) -> str:
    """Why a set of the hub is not to be had, and how to bring it here: the end of an error message."""
    reason = " ".join(str(error).split())[:300]
    return (
        f"({type(error).__name__}: {reason}). Fetch it where there is a network: `hf download {hub_id} "
        "--repo-type dataset --local-dir FOLDER`, and give dataset.path=FOLDER"
    )
