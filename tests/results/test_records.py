from __future__ import annotations

import math
from pathlib import Path

import pytest

from pcg.results.records import Records, write_atomically


def test_what_was_appended_is_there_again(tmp_path: Path) -> None:
    records = Records(tmp_path / "r.jsonl")
    records.append({"batch": 0, "text": "naïve"})
    records.append({"batch": 1})
    assert Records(tmp_path / "r.jsonl").lines == records.lines == [{"batch": 0, "text": "naïve"}, {"batch": 1}]


@pytest.mark.parametrize("cut", range(1, 14))
def test_a_line_cut_anywhere_is_dropped_and_overwritten(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "r.jsonl"
    Records(path).append({"batch": 0})
    with path.open("ab") as file:
        file.write(b'{"batch": 123}\n'[:cut])
    records = Records(path)
    assert records.lines == [{"batch": 0}]
    records.append({"batch": 1})
    assert Records(path).lines == [{"batch": 0}, {"batch": 1}]


def test_nan_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        Records(tmp_path / "r.jsonl").append({"mos": math.nan})


def test_write_atomically_leaves_nothing_beside(tmp_path: Path) -> None:
    write_atomically(tmp_path / "a.json", "1")
    write_atomically(tmp_path / "a.json", "2")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert (tmp_path / "a.json").read_text() == "2"
