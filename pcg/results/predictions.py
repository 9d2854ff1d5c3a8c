"""The files of the offline study under ``outputs/<study>/offline/``: figures of each point, and sums of each utterance.

``offline.json`` has ``config`` (the pair, codec, dataset and sampling, and digests of what lay at their paths) and
``points``, each with::

    curve, name, grouping     the rule's name in conf/offline.yaml, with the values of its grid; its config
    groups                    size report of its groups; null without groups
    alpha, tv, kl, ...        mean over recorded positions, with _ci95 (distances are null for a rule without a law)
    sound, embedding, *_rest  as in result.json, over every decoding.sound_every-th position; null likewise, and where
                              that key is null or there is no codec
    tau, alpha_tested         for gamma = 1, 2, ...: positions / rounds, accepted / tested (``pcg.studies.renewal``)

``offline.parquet`` has the columns that these are ratios of: ``positions``, ``sum_alpha``, ``sum_tv``, ``sum_kl``,
``rounds_1``, ``tested_1``, ``accepted_1``, ``rounds_2``, ... a row for each utterance and point.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from pcg.results.records import write_json
from pcg.results.store import read_rows

SCHEMA = 1
FOLDER, NAME, ROWS = "offline", "offline.json", "offline.parquet"


def write(study_folder: Path, values: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """Write the two files and return their paths."""
    folder = study_folder / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), folder / ROWS)
    write_json(folder / NAME, {"schema": SCHEMA, **values})
    return [folder / NAME, folder / ROWS]


def read(study_folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]] | None:
    """What ``write`` was given; None if the study was not scored offline.

    Raises:
        ValueError: the file has another schema.
    """
    path = study_folder / FOLDER / NAME
    if not path.exists():
        return None
    values = json.loads(path.read_text(encoding="utf-8"))
    if values.get("schema") != SCHEMA:
        raise ValueError(
            f"{path} has schema {values.get('schema')}, this version reads {SCHEMA}; run pcg offline again"
        )
    return values, read_rows(path.with_name(ROWS))
