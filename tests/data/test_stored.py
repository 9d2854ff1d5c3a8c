"""Rows that lie here are read as they lie; what cannot be read is named, with what is wrong with it."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from pcg.data.libritts import LibriTTS
from pcg.data.stored import ParquetRows, open_rows
from pcg.data.tokens import Tokens
from tests.shapes import make_libritts_parquet

ROWS = [{"text": f"Text {i}.", "codes": [i, i + 1]} for i in range(7)]


@pytest.fixture(autouse=True)
def _no_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of ``datasets`` can be written: nothing that lies here may need one."""
    import datasets

    file = tmp_path_factory.mktemp("none") / "file"
    file.touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", file / "cache")


def written(file: Path, rows: list[dict[str, Any]] = ROWS, group: int | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file, row_group_size=group)
    return file


def texts(path: Path | str, config: str | None = None, split: str = "train") -> list[str]:
    return [row["text"] for row in open_rows(str(path), config, split)]


def test_rows_of_several_files_and_groups_are_one_list(tmp_path: Path) -> None:
    rows = ParquetRows([written(tmp_path / "a.parquet", ROWS[:5], 2), written(tmp_path / "b.parquet", ROWS[5:], 1)])
    assert list(rows) == ROWS
    assert (len(rows), rows[4], rows[5], rows[6]) == (7, ROWS[4], ROWS[5], ROWS[6])
    assert rows.take(2) == ROWS[:2]
    assert list(rows.select_columns(["codes"]))[3] == list(rows.remove_columns("text"))[3] == {"codes": [3, 4]}
    with pytest.raises(IndexError):
        rows[7]


def test_a_file_replaced_by_one_of_the_same_time_and_size_is_read_anew(tmp_path: Path) -> None:
    file = tmp_path / "speech.parquet"
    for text in ("First words.", "Other words."):
        written(file, [{"text": text, "codes": [1]}])
        os.utime(file, (1e9, 1e9))
        assert [each.text for each in Tokens(str(file))] == [text]


@pytest.mark.parametrize("name", ["plain", "with [brackets] and *", "spaces in it", "ünï"])
def test_a_folder_may_be_called_anything(name: str, tmp_path: Path) -> None:
    written(tmp_path / name / "part.parquet")
    assert len(texts(tmp_path / name)) == 7
    assert len(texts(tmp_path / name / "part.parquet")) == 7
    (tmp_path / name / "README.md").write_text("---\nconfigs:\n- config_name: a\n  data_files: 'part*.parquet'\n---\n")
    assert len(texts(tmp_path / name)) == 7


def test_splits_and_configs_are_those_of_readme_or_of_names(tmp_path: Path) -> None:
    named = tmp_path / "named"
    for split, rows in (("train", ROWS[:2]), ("test.clean", ROWS[2:3])):
        written(named / "data" / f"{split}-00000-of-00001.parquet", rows)
    written(named / ".cache" / "old.parquet")
    assert texts(named) == ["Text 0.", "Text 1."]
    assert texts(named, split="test.clean") == ["Text 2."]
    with pytest.raises(
        FileNotFoundError, match=r"no \*\.parquet is named after split=dev; there are data/test\.clean-"
    ):
        texts(named, split="dev")
    told = tmp_path / "told"
    written(told / "x" / "1.parquet", ROWS[:1])
    written(told / "y" / "1.parquet", ROWS[1:2])
    (told / "README.md").write_text(
        "---\nconfigs:\n- config_name: clean\n  data_files:\n  - split: train\n    path: x/*.parquet\n"
        "- config_name: other\n  data_files:\n  - split: train\n    path: [y/1.parquet]\n---\nWords.\n"
    )
    assert (texts(told, "clean"), texts(told, "other")) == (["Text 0."], ["Text 1."])
    with pytest.raises(
        FileNotFoundError, match="names no files of config=None, split=train; it has clean train, other"
    ):
        texts(told)
    (told / "README.md").write_text("---\nconfigs: 3\n---\n")
    with pytest.raises(ValueError, match=r"README\.md: its configs cannot be read"):
        texts(told)


def test_what_save_to_disk_wrote_is_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    saved = Dataset.from_list(ROWS)
    saved.save_to_disk(tmp_path / "one")
    DatasetDict({"train": saved, "dev": saved.select([1])}).save_to_disk(tmp_path / "two")
    assert texts(tmp_path / "one") == texts(tmp_path / "two") == [row["text"] for row in ROWS]
    assert texts(tmp_path / "two", split="dev") == ["Text 1."]
    with pytest.raises(ValueError, match="has no split=test; there are train, dev"):
        texts(tmp_path / "two", split="test")
    next((tmp_path / "one").glob("*.arrow")).write_bytes(b"")
    with pytest.raises(ValueError, match="one was written by save_to_disk and cannot be read"):
        texts(tmp_path / "one")


def test_what_cannot_be_read_is_named_with_what_is_wrong(tmp_path: Path) -> None:
    whole = written(tmp_path / "whole.parquet").read_bytes()
    cut, empty, table, bare = (tmp_path / name for name in ("cut.parquet", "empty.parquet", "speech.csv", "bare"))
    cut.write_bytes(whole[: len(whole) // 2])
    empty.touch()
    table.write_text("text,codes\nSome words.,1 2 3\n")
    bare.mkdir()
    (bare / "speech.csv").touch()
    link = tmp_path / "link.parquet"
    link.symlink_to(tmp_path / "gone.parquet")
    pyarrow.parquet.write_table(
        pyarrow.table({"text": pyarrow.array([], "string"), "codes": []}), tmp_path / "none.parquet"
    )
    damaged = bytearray(whole)
    damaged[4:60] = bytes(56)
    (tmp_path / "damaged.parquet").write_bytes(damaged)
    for path, error, message in (
        (cut, ValueError, r"cut\.parquet is truncated or no parquet file"),
        (empty, ValueError, r"empty\.parquet is empty \(0 bytes\)"),
        (table, ValueError, r"speech\.csv is no parquet file; convert it \(a CSV file: pandas\.read_csv"),
        (bare, FileNotFoundError, r"bare holds no \*\.parquet \(it holds speech\.csv\)"),
        (link, FileNotFoundError, r"link\.parquet is a link to .*gone\.parquet, which is not there"),
        (tmp_path / "none.parquet", ValueError, r"none\.parquet: no rows"),
        (tmp_path / "damaged.parquet", ValueError, r"damaged\.parquet is damaged"),
        (
            tmp_path / "absent.parquet",
            FileNotFoundError,
            r"absent\.parquet: no such file or folder, and it is no hub id",
        ),
        ("absent.parquet", FileNotFoundError, r"absent\.parquet: no such file or folder, and it is no hub id"),
    ):
        with pytest.raises(error, match=message):
            list(Tokens(str(path)))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": 3, "codes": [1]}, "row 0 .*, column text: 3 is int, not text"),
        ({"text": b"words", "codes": [1]}, "column text: b'words' is bytes, not text"),
        ({"text": None, "codes": [1]}, "row 0 .*, column text: the cell is empty"),
        ({"text": " ", "codes": [1]}, "column text: the cell is empty"),
        ({"text": "Yes.", "codes": None}, "column codes: codes are "),
        ({"text": "Yes.", "codes": []}, "codes are empty"),
        ({"text": "Yes.", "codes": [[1, 2], [3, 4]]}, r"codes are of shape \(2, 2\)"),
        ({"text": "Yes.", "codes": [0.5]}, "float64; expected one row of whole numbers"),
        (
            {"text": "Yes.", "codes": [5, 2**32 + 5]},
            "column codes: there is code 4294967301; allowed: 0 to 2,147,483,647",
        ),
        ({"text": "Yes.", "codes": [-1]}, "column codes: there is code -1"),
    ],
)
def test_a_cell_that_cannot_be_right_is_named_by_row_and_column(
    row: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=message):
        [each.load_codes() for each in Tokens(str(written(tmp_path / "a.parquet", [row])))]  # type: ignore[misc]


def test_unsigned_codes_of_64_bits_do_not_wrap(tmp_path: Path) -> None:
    codes = pyarrow.array([[2**63 + 1]], pyarrow.list_(pyarrow.uint64()))
    pyarrow.parquet.write_table(pyarrow.table({"text": ["Yes."], "codes": codes}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="there is code 9223372036854775809"):
        next(iter(Tokens(str(tmp_path / "a.parquet")))).load_codes()  # type: ignore[misc]


def test_libritts_laid_out_as_on_the_hub_needs_no_cache(tmp_path: Path) -> None:
    folder = make_libritts_parquet(tmp_path / "set [1]")
    said = list(LibriTTS(str(folder), limit=2, prompt_seconds=(0, 60)))
    assert len(said) == 2
    assert said[0].load_reference().samples.size  # type: ignore[misc]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_cache_that_cannot_be_written_is_named(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number), "/cache/x")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(
        OSError, match=r"owner/set \(split train\): the cache of `datasets`, .*, cannot be written .*HF_HOME"
    ):
        texts("owner/set")


def test_what_came_of_the_hub_and_is_damaged_is_no_set_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    def fail(*_: object, **__: object) -> None:
        raise datasets.exceptions.DatasetGenerationError("while generating") from ValueError("bad footer")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(ValueError, match="what the hub sent cannot be read: bad footer"):
        texts("owner/set")
