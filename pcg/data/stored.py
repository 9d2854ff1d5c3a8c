"""Rows of a data set: local parquet files, a folder of them as on the hub, a folder of ``save_to_disk``, or a hub id.

Local parquet is read row group by row group and not through the cache of ``datasets``, which identifies files by path
and time: so a replaced file is never taken for the old one, nothing is copied, and no cache has to be writable.
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


class ParquetRows:
    """The rows of parquet files, one after another, as dictionaries by column; they are read a row group at a time.

    Args:
        files: in order; all must have the columns.
        columns: those that are read; None for all of the first file.

    Raises:
        ValueError: a file is no parquet file, truncated, or lacks a column, or there are no rows.
    """

    def __init__(self, files: Sequence[Path], columns: Sequence[str] | None = None) -> None:
        self._files = tuple(files)
        self._opened = [open_parquet(file) for file in self._files]
        names = [opened.schema_arrow.names for opened in self._opened]
        self.column_names = list(columns or names[0])
        for file, columns_of_file in zip(self._files, names, strict=True):
            if missing := [column for column in self.column_names if column not in columns_of_file]:
                raise ValueError(f"{file} has no column {', '.join(missing)}, which {self._files[0]} has")
        self._groups = [
            (file, group) for file, opened in enumerate(self._opened) for group in range(opened.metadata.num_row_groups)
        ]
        sizes = [self._opened[file].metadata.row_group(group).num_rows for file, group in self._groups]
        self._ends = list(accumulate(sizes))
        if not sum(sizes):
            raise ValueError(f"{self._files[0]}{' and the other files' if len(self._files) > 1 else ''}: no rows")
        self._group = lru_cache(maxsize=2)(self._read)

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        group = bisect_right(self._ends, index)
        first = self._ends[group - 1] if group else 0
        return {name: column[index - first].as_py() for name, column in self._group(group).items()}

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def select_columns(self, columns: str | Sequence[str]) -> ParquetRows:
        return ParquetRows(self._files, [columns] if isinstance(columns, str) else list(columns))

    def remove_columns(self, column: str) -> ParquetRows:
        return self.select_columns([name for name in self.column_names if name != column])

    def take(self, count: int) -> list[dict[str, Any]]:
        return list(islice(self, count))

    def _read(self, index: int) -> dict[str, pyarrow.ChunkedArray]:
        file, group = self._groups[index]
        try:
            table = self._opened[file].read_row_group(group, columns=self.column_names)
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(
                f"{self._files[file]} is damaged ({_in_a_line(error)}); download or write it again"
            ) from error
        return {name: table[name].combine_chunks() for name in self.column_names}


def open_parquet(file: Path) -> pyarrow.parquet.ParquetFile:
    """The opened parquet file.

    Raises:
        FileNotFoundError, ValueError: there is no such file, or it is truncated or no parquet file.
    """
    if problem := absent(file):
        raise FileNotFoundError(problem)
    if not file.stat().st_size:
        raise ValueError(f"{file} is empty (0 bytes); download or write it again")
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (OSError, pyarrow.ArrowException) as error:
        if file.suffix.lower() != ".parquet":
            raise ValueError(
                f"{file} is no parquet file; convert it (a CSV file: pandas.read_csv(FILE).to_parquet(NEW))"
            ) from error
        raise ValueError(
            f"{file} is truncated or no parquet file ({_in_a_line(error)}); download or write it again"
        ) from error


def open_rows(path: str, config: str | None, split: str, streaming: bool = False) -> Any:
    """The rows of a set, with ``column_names``, ``select_columns`` and ``take``; by index and in order.

    Args:
        path: a parquet file, a folder or a hub id. A folder's README.md assigns files to configs and splits, as on the
            hub; without one the names of folders and files do.
        config: of a set that has several; None for its only one.

    Raises:
        FileNotFoundError, ValueError: the set cannot be found or read.
    """
    local = Path(path).expanduser()
    if local.is_file():
        return ParquetRows([local])
    if local.is_dir():
        saved = any((local / name).is_file() for name in _SAVED)
        return _saved(local, split) if saved else ParquetRows(parquet_files(local, config, split))
    if local.is_symlink() or not _HUB_ID.fullmatch(path) or path.lower().endswith(_NO_IDS):
        raise FileNotFoundError(f"{absent(local)}, and it is no hub id (owner/name)")
    return _of_hub(path, config, split, streaming)


def parquet_files(folder: Path, config: str | None, split: str) -> list[Path]:
    """The files of a split of a folder, in order.

    Raises:
        FileNotFoundError: there are none; the message names those that exist.
    """
    by_readme = _files_of_readme(folder)
    if by_readme:
        configs = {name for name, _ in by_readme}
        only = configs.pop() if config is None and len(configs) == 1 else config
        if files := by_readme.get((str(only), split)):
            return files
        existing = ", ".join(sorted(f"{name} {part}" for name, part in by_readme))
        raise FileNotFoundError(
            f"{folder}: its README.md names no files of config={config}, split={split}; it has {existing}"
        )
    top = folder / config if config is not None and (folder / config).is_dir() else folder
    files = sorted(
        file for file in top.rglob("*.parquet") if not any(part.startswith(".") for part in file.relative_to(top).parts)
    )
    if not files:
        others = sorted(file.name for file in folder.iterdir() if not file.name.startswith("."))[:5]
        raise FileNotFoundError(f"{folder} holds no *.parquet (it holds {', '.join(others) or 'nothing'})")
    of_split = [file for file in files if _has_name(file.relative_to(top), split)]
    named = any(_has_name(file.relative_to(top), name) for file in files for name in _SPLITS)
    if not of_split and split == "train" and not named:
        of_split = files  # a set of one split need not name it
    if not of_split:
        existing = ", ".join(str(file.relative_to(folder)) for file in files[:5])
        raise FileNotFoundError(f"{folder}: no *.parquet is named after split={split}; there are {existing}")
    return of_split


def _has_name(file: Path, split: str) -> bool:
    """Whether a folder or a file is named after a split: ``train/a.parquet``, ``data/train-0000.parquet``."""
    return re.search(rf"(^|[^a-z0-9]){re.escape(split.lower())}([^a-z0-9]|$)", str(file).lower()) is not None


def _files_of_readme(folder: Path) -> dict[tuple[str, str], list[Path]]:
    """The files that the ``configs`` of a README.md name, by config and split."""
    try:
        header = re.match(r"---\s*\n(.*?)\n---", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
        configs = (yaml.safe_load(header[1]) or {}).get("configs", []) if header else []
        files: dict[tuple[str, str], list[Path]] = {}
        for entry in configs:
            parts = entry["data_files"]
            parts = [{"split": "train", "path": parts}] if isinstance(parts, str) else parts
            for part in parts:
                patterns = [part["path"]] if isinstance(part["path"], str) else part["path"]
                key = str(entry.get("config_name", "default")), str(part["split"])
                files[key] = sorted({file for pattern in patterns for file in folder.glob(pattern)})
        return {key: matched for key, matched in files.items() if matched}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise ValueError(f"{folder / 'README.md'}: its configs cannot be read ({_in_a_line(error)})") from error


def _saved(folder: Path, split: str) -> Any:
    """The set that ``datasets`` wrote by ``save_to_disk``, memory-mapped."""
    from datasets import load_from_disk  # takes seconds to import

    try:
        saved = load_from_disk(str(folder))
    except Exception as error:
        raise ValueError(f"{folder} was written by save_to_disk and cannot be read: {_in_a_line(error)}") from error
    if not isinstance(saved, dict):
        return saved
    if split not in saved:
        raise ValueError(f"{folder} has no split={split}; there are {', '.join(map(str, saved))}")
    return saved[split]


def _of_hub(path: str, config: str | None, split: str, streaming: bool) -> Any:
    import datasets  # takes seconds to import

    name = f"{path} ({', '.join(part for part in (config, f'split {split}') if part)})"
    try:
        return datasets.load_dataset(path, config, split=split, streaming=streaming)
    except Exception as error:
        if unwritable(error):
            raise OSError(
                f"{name}: the cache of `datasets`, {datasets.config.HF_DATASETS_CACHE}, cannot be written "
                f"({_in_a_line(error)}); set HF_HOME or HF_DATASETS_CACHE to a writable folder"
            ) from error
        if isinstance(error, datasets.exceptions.DatasetGenerationError):
            raise ValueError(
                f"{name}: what the hub sent cannot be read: {_in_a_line(error.__cause__ or error)}"
            ) from error
        raise FileNotFoundError(
            f"{name} cannot be downloaded ({type(error).__name__}: {_in_a_line(error)}). Run `hf download {path} "
            "--repo-type dataset --local-dir FOLDER` where there is a network, and set dataset.path=FOLDER"
        ) from error


def text_of(row: dict[str, Any], column: str, where: str) -> str:
    """The text in a cell, without surrounding white space.

    Raises:
        ValueError: the cell holds no text; the message names row and column.
    """
    cell = row[column]
    if cell is not None and not isinstance(cell, str):
        raise ValueError(f"{where}, column {column}: {cell!r} is {type(cell).__name__}, not text")
    text = (cell or "").strip()
    if not text:
        raise ValueError(f"{where}, column {column}: the cell is empty")
    return text


def _in_a_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]
