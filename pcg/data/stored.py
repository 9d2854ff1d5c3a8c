"""Rows of a data set: parquet files that lie here, a folder of them as on the hub, what ``datasets`` saved, a hub id.

What lies here is read as it lies, row group by row group, and never through the cache of ``datasets``, which knows
files by path and time: a file that was replaced is another one whatever its time says, nothing is copied, and no cache
has to be writable.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import yaml

from pcg.files import absent, unwritable

_SPLITS = ("train", "training", "validation", "valid", "dev", "val", "test", "testing", "eval", "evaluation")
_HUB_ID = re.compile(r"[\w-][\w.-]*(/[\w.-]+)?")
_NO_IDS = (".parquet", ".csv", ".tsv", ".json", ".jsonl", ".txt", ".arrow")
_SAVED = ("state.json", "dataset_dict.json")  # of ``save_to_disk``


class Rows:
    """The rows of parquet files, one after another: dictionaries by column, read a row group at a time.

    Args:
        files: in order; all must have the columns.
        columns: those that are read; None for all of the first file.

    Raises:
        ValueError: a file is no parquet file, or cut short, or lacks a column, or there is no row; naming it.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str] | None = None) -> None:
        self._files = tuple(files)
        self._opened = [open_parquet(file) for file in self._files]
        names = [opened.schema_arrow.names for opened in self._opened]
        self.column_names = list(columns or names[0])
        for file, there in zip(self._files, names, strict=True):
            if lost := [column for column in self.column_names if column not in there]:
                raise ValueError(f"{file} has no column {', '.join(lost)}, as {self._files[0]} has")
        self._groups = [
            (place, group)
            for place, opened in enumerate(self._opened)
            for group in range(opened.metadata.num_row_groups)
        ]
        sizes = [self._opened[place].metadata.row_group(group).num_rows for place, group in self._groups]
        self._ends = list(accumulate(sizes))
        if not sum(sizes):
            raise ValueError(f"{self._files[0]}{' and the others' if len(self._files) > 1 else ''} holds no rows")
        self._group = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        place = bisect_right(self._ends, index)
        first = self._ends[place - 1] if place else 0
        return {name: column[index - first].as_py() for name, column in self._group(place).items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def select_columns(self, columns: str | Sequence[str]) -> Rows:
        return Rows(self._files, [columns] if isinstance(columns, str) else list(columns))

    def remove_columns(self, column: str) -> Rows:
        return self.select_columns([name for name in self.column_names if name != column])

    def take(self, count: int) -> list[dict[str, Any]]:
        return list(islice(self, count))

    def _read(self, place: int) -> dict[str, pyarrow.ChunkedArray]:
        file, group = self._groups[place]
        try:
            table = self._opened[file].read_row_group(group, columns=self.column_names)
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{self._files[file]} is damaged ({_in_a_line(error)}): fetch or make it again") from error
        return {name: table[name].combine_chunks() for name in self.column_names}


def open_parquet(file: Path) -> pyarrow.parquet.ParquetFile:
    """Raises FileNotFoundError or ValueError for what is no parquet file, or is cut short, naming the file."""
    if wrong := absent(file):
        raise FileNotFoundError(wrong)
    if not file.stat().st_size:
        raise ValueError(f"{file} is empty (0 bytes): fetch or make it again")
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        if file.suffix.lower() != ".parquet":
            raise ValueError(
                f"{file} is no parquet file, and only those are read: pandas.read_csv(FILE).to_parquet(NEW) makes one "
                "of a CSV file"
            ) from error
        raise ValueError(
            f"{file} is cut short or no parquet file ({_in_a_line(error)}): fetch or make it again"
        ) from error


def open_rows(path: str, config: str | None, split: str, streaming: bool = False) -> Any:
    """The rows of a set: with ``column_names``, ``select_columns``, ``take``, by index and in order.

    Args:
        path: a parquet file, a folder or a hub id. A folder's README.md says which files belong to which config and
            split, as on the hub; without one names of folders and files do.
        config: of a set that has several; None for its only one.

    Raises:
        FileNotFoundError, ValueError: what is not there, or cannot be read; naming it.
    """
    place = Path(path).expanduser()
    if place.is_file():
        return Rows([place])
    if place.is_dir():
        saved = next((name for name in _SAVED if (place / name).is_file()), None)
        return Rows(parquet_files(place, config, split)) if saved is None else _saved(place, split)
    if place.is_symlink() or not _HUB_ID.fullmatch(path) or path.lower().endswith(_NO_IDS):
        raise FileNotFoundError(f"{absent(place)}, and it is no hub id (owner/name)")
    return _of_hub(path, config, split, streaming)


def parquet_files(folder: Path, config: str | None, split: str) -> list[Path]:
    """The files of a split of a folder, in order.

    Raises:
        FileNotFoundError: there are none; what there is is named.
    """
    told = _told(folder)
    if told:
        found = told.get((config, split)) if config is not None else None
        if config is None and len({name for name, _ in told}) == 1:
            found = next((files for (_, name), files in told.items() if name == split), None)
        if found:
            return found
        there = ", ".join(sorted(f"{name} {part}" for name, part in told))
        raise FileNotFoundError(
            f"{folder}: its README.md names no files of config={config}, split={split}; it has {there}"
        )
    top = folder / config if config is not None and (folder / config).is_dir() else folder
    files = sorted(
        file for file in top.rglob("*.parquet") if not any(part.startswith(".") for part in file.relative_to(top).parts)
    )
    if not files:
        others = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))[:5]
        raise FileNotFoundError(f"{folder} holds no *.parquet (it holds {', '.join(others) or 'nothing'})")
    of_split = [file for file in files if _names(file.relative_to(top), split)]
    if (
        not of_split
        and split == "train"
        and not any(_names(file.relative_to(top), each) for file in files for each in _SPLITS)
    ):
        of_split = files  # of one split, which need not be named
    if not of_split:
        there = ", ".join(str(file.relative_to(folder)) for file in files[:5])
        raise FileNotFoundError(f"{folder}: no *.parquet is named after split={split}; there are {there}")
    return of_split


def _names(file: Path, split: str) -> bool:
    """Whether a folder or a file is called after a split: ``train/a.parquet``, ``data/train-0000.parquet``."""
    return re.search(rf"(^|[^a-z0-9]){re.escape(split.lower())}([^a-z0-9]|$)", str(file).lower()) is not None


def _told(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """By config and split the files that the ``configs`` of a README.md name; none where it names none."""
    try:
        found = re.match(r"---\s*\n(.*?)\n---", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        configs = (yaml.safe_load(found[1]) or {}).get("configs", []) if found else []
        files: dict[tuple[str, str], list[Path]] = {}
        for each in configs:
            parts = each["data_files"]
            parts = [{"split": "train", "path": parts}] if isinstance(parts, str) else parts
            for part in parts:
                patterns = [part["path"]] if isinstance(part["path"], str) else part["path"]
                key = str(each.get("config_name", "default")), str(part["split"])
                files[key] = sorted({file for pattern in patterns for file in folder.glob(pattern)})
        return {key: found for key, found in files.items() if found}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / 'README.md'}: its configs cannot be read ({_in_a_line(error)})") from error


def _saved(folder: Path, split: str) -> Any:
    """What ``datasets`` saved by ``save_to_disk``, memory-mapped."""
    from datasets import load_from_disk  # seconds; needed only here

    try:
        found = load_from_disk(str(folder))
    except Exception as error:
        raise ValueError(f"{folder} was written by save_to_disk and cannot be read: {_in_a_line(error)}") from error
    if not isinstance(found, dict):
        return found
    if split not in found:
        raise ValueError(f"{folder} has no split={split}; there are {', '.join(map(str, found))}")
    return found[split]


def _of_hub(path: str, config: str | None, split: str, streaming: bool) -> Any:
    import datasets  # seconds; needed only here

    name = f"{path} ({', '.join(each for each in (config, f'split {split}') if each)})"
    try:
        return datasets.load_dataset(path, config, split=split, streaming=streaming)
    except Exception as error:
        if unwritable(error):
            raise OSError(
                f"{name}: the cache of `datasets`, {datasets.config.HF_DATASETS_CACHE}, cannot be written "
                f"({_in_a_line(error)}): set HF_HOME or HF_DATASETS_CACHE to a folder that can"
            ) from error
        if isinstance(error, datasets.exceptions.DatasetGenerationError):
            raise ValueError(
                f"{name}: what came of the hub cannot be read: {_in_a_line(error.__cause__ or error)}"
            ) from error
        raise FileNotFoundError(
            f"{name} is neither here nor to be had ({type(error).__name__}: {_in_a_line(error)}). Fetch it "
            f"where there is a network: `hf download {path} --repo-type dataset --local-dir FOLDER`, and give "
            "dataset.path=FOLDER"
        ) from error


def text_of(row: dict[str, Any], column: str, where: str) -> str:
    """The text in a cell, without white space around it.

    Raises:
        ValueError: it is none, or empty; naming row and column.
    """
    cell = row[column]
    if cell is not None and not isinstance(cell, str):
        raise ValueError(f"{where}, column {column}: {cell!r} is no text but {type(cell).__name__}")
    text = (cell or "").strip()
    if not text:
        raise ValueError(f"{where}, column {column}: is empty")
    return text


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
