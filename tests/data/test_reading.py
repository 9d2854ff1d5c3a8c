"""Text files in whatever encoding says what it is."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest

from pcg.data.reading import lines_of, read_text, visible
from pcg.data.seedtts import SeedTTS
from pcg.data.text_folder import TextFolder
from pcg.data.texts import Texts

TEXT = "Im Café, 5 € or “6”.\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "utf-16-be", "utf-32-be"])
def test_the_byte_order_mark_tells_the_encoding(encoding: str, tmp_path: Path) -> None:
    mark = {"utf-16-be": codecs.BOM_UTF16_BE, "utf-32-be": codecs.BOM_UTF32_BE}.get(encoding, b"")
    (tmp_path / "a.txt").write_bytes(mark + TEXT.encode(encoding))
    assert read_text(tmp_path / "a.txt") == TEXT
    for texts in (Texts(str(tmp_path / "a.txt")), TextFolder(str(tmp_path))):
        assert [utterance.text for utterance in texts] == [TEXT.strip()]


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"One.\nIm Caf\xe9.", r"is not UTF-8 \(line 2, byte 0xe9\); save it as UTF-8, or as UTF-16 with a byte-order"),
        ("“Quoted”".encode("cp1252"), r"is not UTF-8 \(line 1, byte 0x93\)"),
        ("Plain.".encode("utf-16-le"), "holds zero bytes; save it as UTF-8, or as UTF-16 with a byte-order mark"),
        (codecs.BOM_UTF16_LE + b"a", r"is not UTF-16 \(line 1, byte 0x61\)"),
    ],
)
def test_another_encoding_is_refused_by_name(data: bytes, problem: str, tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(data)
    for read in (lambda: Texts(str(file)), lambda: list(TextFolder(str(tmp_path))), lambda: list(SeedTTS(str(file)))):
        with pytest.raises(ValueError, match=f"a.txt {problem}"):
            read()


def test_hidden_files_are_not_seen(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "._a.txt", ".DS_Store"):
        (tmp_path / name).touch()
    (tmp_path / "c.txt").mkdir()
    assert [path.name for path in visible(tmp_path.iterdir())] == ["a.txt", "b.txt"]


def test_lines_end_at_the_ends_of_lines_and_nowhere_else(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    for text, lines in (
        ("a\nb\r\nc\rd", ["a", "b", "c", "d"]),
        ("a\n\n b \n", ["a", "", " b "]),
        ("a\x85b\n\x0cc\u2028d\x0be\u2029f\x1cg\n", ["a\x85b", "\x0cc\u2028d\x0be\u2029f\x1cg"]),
        ("", []),
        ("\n", [""]),
    ):
        path.write_bytes(text.encode())
        assert lines_of(path) == lines
    path.write_bytes("a\r\nb\u2028c\r\n".encode("utf-16"))
    assert lines_of(path) == ["a", "b\u2028c"]


def test_a_link_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    for name in ("a.txt", "a.wav", "a.prompt"):
        link = tmp_path / name
        link.symlink_to("gone")
        with pytest.raises(FileNotFoundError, match=f"{link} is a link to gone, which is not there"):
            read_text(link)
        with pytest.raises(FileNotFoundError, match=f"{link} is a link to gone"):
            visible(tmp_path.iterdir())
        link.unlink()
    (tmp_path / "folder").symlink_to("gone")
    with pytest.raises(FileNotFoundError, match="folder is a link to gone"):
        read_text(tmp_path / "folder" / "a.txt")
    with pytest.raises(FileNotFoundError, match=r"b\.txt: no such file"):
        read_text(tmp_path / "b.txt")
