"""Rows of utterances, as ``utterances.parquet`` holds them, and ratios over the rows of one seed or of several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pcg.metrics.aggregate import Estimate, ratio
from pcg.results.timing import decode_seconds

Row = Mapping[str, Any]
BySeed = Mapping[int, Mapping[Any, Row]]  # by seed, then by utterance or batch


def utterance_rows(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One flat row for each utterance: tokens, counts, sums, scores (``baseline_*``: of the target alone).

    ``batch_seconds`` is the decode time of the whole batch. All rows have the same keys; a value that an utterance
    lacks (because it failed, or the target was not decoded alone) is None.
    """
    rows = [_flat(row, record) for record in records for row in record["rows"]]
    keys = dict.fromkeys(key for row in rows for key in row)
    return [{key: row.get(key) for key in keys} for row in rows]


def _flat(row: Row, record: Mapping[str, Any]) -> dict[str, Any]:
    nested = ("counts", "sums", "scores", "baseline_scores")
    return {
        **{key: value for key, value in row.items() if key not in nested},
        "batch": record["batch"],
        "batch_seconds": record["seconds"] and decode_seconds(record["seconds"]),
        **row.get("counts", {}),
        **{f"sum_{key}": value for key, value in row.get("sums", {}).items()},
        **row.get("scores", {}),
        **{f"baseline_{key}": value for key, value in row.get("baseline_scores", {}).items()},
    }


def shared_columns(sides: Sequence[BySeed], columns: Sequence[Sequence[str | None]]) -> list[np.ndarray] | None:
    """Columns of one or two methods on the utterances that all of their seeds have; None where there are none.

    Two methods that share seeds are paired by utterance and seed: each array is (utterances, seeds). Else they are
    paired by utterance, summed over each method's own seeds: each array is (utterances).

    Args:
        sides: the rows of each method.
        columns: the names of each side's columns; None is a column of ones.

    Returns:
        One array for each column of each side, in their order.
    """
    seeds = set.intersection(*(set(side) for side in sides))
    rows_of = [[side[seed] for seed in sorted(seeds or side)] for side in sides]

    def complete(key: Any) -> bool:
        return all(
            key in rows and all(name is None or rows[key].get(name) is not None for name in names)
            for side, names in zip(rows_of, columns, strict=True)
            for rows in side
        )

    keys = [key for key in rows_of[0][0] if complete(key)]
    if not keys:
        return None
    arrays = [
        np.array([[1.0 if name is None else rows[key][name] for rows in side] for key in keys], dtype=np.float64)
        for side, names in zip(rows_of, columns, strict=True)
        for name in names
    ]
    return arrays if seeds else [array.sum(1) for array in arrays]


def ratio_of(rows: BySeed, top: str, bottom: str | None, share: bool = False) -> Estimate:
    """The ratio of two columns' sums, or the mean of the first, over the utterances that all seeds have."""
    columns = shared_columns([rows], [[top, bottom]])
    if columns is None:
        return Estimate(None, None)
    return ratio(columns[0], None if bottom is None else columns[1], share=share)
