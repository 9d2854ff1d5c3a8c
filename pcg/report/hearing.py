"""Does a distance hear? How far it agrees with what was heard of a study's runs.

A run has a distance of its law from the target and, on the same utterances, changed errors, similarity or MOS against
the target alone. A distance that hears ranks the runs as the ear does: Spearman's rank correlation of the two over
runs. Its interval resamples utterances and runs together, the same for all distances, so that they can be compared.
docs/sound.md says how it came out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot
from matplotlib.figure import Figure as Drawing

from pcg.results import store
from pcg.results.figures import declared
from pcg.types import Figure, Result

ALONE = "target alone"
_SAMPLING = ("temperature", "top_k", "top_p", "repetition_penalty", "max_tokens")
FEWEST = 5  # runs: fewer have no ranks to speak of
_RESAMPLES = 2_000
# Name -> (columns of utterances.parquet that it is the ratio of, what it is called).
_DISTANCES: Mapping[str, tuple[str, str, str]] = {
    "sound": ("sum_sound", "sum_moved_positions", "sound, dB"),
    "embedding": ("sum_embedding", "sum_moved_positions", "embedding"),
    "tv": ("sum_tv", "tested", "TV"),
    "kl": ("sum_kl", "tested", "KL"),
    "overshoot_unlikely": ("sum_overshoot_unlikely", "tested", "overshoot at unlikely tokens"),
    "kept": ("kept_beyond_exact", "tested", "alpha beyond exact's (a control: no distance)"),
}
LEGEND = """Does a distance hear? Spearman's rank correlation (rho), over {runs} runs, of each distance of the runs'
laws from the target with how much worse they sound than the target alone on the same {utterances} utterances: 1 if it
ranks the runs as the ear does, 0 if it knows nothing of that. Intervals are 95 %, over utterances and runs resampled
together; `leads` is the share of these resamples in which no other distance has a higher rho. docs/sound.md.

"""
Rows = Mapping[str, Mapping[str, Any]]  # of one run, by utterance


@dataclass(frozen=True)
class Agreement:
    """How a distance ranks the runs, held to one figure of quality.

    Attributes:
        rho: Spearman's rank correlation of the distance with how much worse the figure is than the target's: 1 if it
            ranks the runs as the ear does, 0 if it knows nothing.
        ci95: over utterances and runs.
        leads: share of the resamples in which no other distance has a higher rho.
    """

    rho: float
    ci95: tuple[float, float]
    leads: float


@dataclass(frozen=True)
class Hearing:
    """Of a study: by figure of quality and distance.

    Attributes:
        runs, utterances: how many were compared.
        figures: of quality, by key.
        found: by figure, and by distance.
        distances: of each run, by name.
        harm: by figure, how much worse each run is than the target alone.
    """

    runs: int
    utterances: int
    figures: Mapping[str, Figure]
    found: Mapping[str, Mapping[str, Agreement]]
    distances: Mapping[str, np.ndarray]
    harm: Mapping[str, np.ndarray]


def listen(results: Sequence[Result], seed: int = 0) -> Hearing | None:
    """Agreement of each distance that the runs have with each of their figures of quality.

    Taken are runs with a law on the utterances that they share, each beside the target alone: as it was decoded with
    the run, or by a run of its own with the same seed and sampling; and distances that ``FEWEST`` of them have. None
    where they are fewer.
    """
    alone = {_setting(result): _rows(result) for result in results if result.values["method"] == ALONE}
    tables = [
        _beside(_rows(result), alone.get(_setting(result), {}))
        for result in results
        if result.values["distortion"]["tv"] is not None
    ]
    columns = {name: (top, bottom) for name, (top, bottom, _) in _DISTANCES.items()}
    columns = {name: both for name, both in columns.items() if sum(_has(rows, both) for rows in tables) >= FEWEST}
    tables = [rows for rows in tables if all(_has(rows, both) for both in columns.values())]
    figures = {
        key: figure for key, figure in _figures(results).items() if all(_scored(rows, figure) for rows in tables)
    }
    shared = sorted(set.intersection(*(set(rows) for rows in tables))) if tables else []
    if len(tables) < FEWEST or len(shared) < 2 or not figures:
        return None

    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(shared), np.full(len(shared), 1 / len(shared)), size=_RESAMPLES)
    weights = np.concatenate([np.ones((1, len(shared))), weights])  # the first is the study itself
    chosen = rng.integers(len(tables), size=(len(tables), len(weights)))
    chosen[:, 0] = np.arange(len(tables))
    distances = {name: _ratio(tables, shared, both, weights) for name, both in columns.items()}
    harm = {key: _harm(tables, shared, figure, weights) for key, figure in figures.items()}
    found = {}
    for key in figures:
        rhos = {name: _spearman(distance, harm[key], chosen) for name, distance in distances.items()}
        best = np.max([rho for name, rho in rhos.items() if name != "kept"], axis=0)
        found[key] = {name: _agreement(rho, best) for name, rho in rhos.items()}
    firsts = ({name: values[:, 0] for name, values in each.items()} for each in (distances, harm))
    return Hearing(len(tables), len(shared), figures, found, *firsts)


def table(hearing: Hearing) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a row a distance, the best of the first figure of quality at the top."""
    first = next(iter(hearing.found))
    order = sorted(hearing.found[first], key=lambda name: -hearing.found[first][name].rho)
    header = [
        "distance",
        *(f"{hearing.figures[key].name} {part}" for key in hearing.found for part in ("rho", "leads")),
    ]
    rows = [
        [_DISTANCES[name][2], *(cell for key in hearing.found for cell in _cells(hearing.found[key][name]))]
        for name in order
    ]
    return header, rows


def draw(hearing: Hearing) -> Drawing:
    """Each run by each distance and by how much worse the first figure of quality is than the target's."""
    key, figure = next(iter(hearing.figures.items()))
    shown = [name for name in hearing.distances if name != "kept"]
    drawing, panels = pyplot.subplots(
        1, len(shown), sharey=True, squeeze=False, layout="constrained", figsize=(1.2 + 2.2 * len(shown), 2.6)
    )
    for axes, name in zip(panels[0], shown, strict=True):
        axes.plot(hearing.distances[name], figure.scale * hearing.harm[key], "o", color="#0072B2", markersize=4)
        axes.set_title(f"rho {_cells(hearing.found[key][name])[0]}", fontsize=8)
        axes.set_xlabel(_DISTANCES[name][2], fontsize=8)
        axes.axhline(0.0, color="black", linewidth=0.6)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    panels[0, 0].set_ylabel(
        f"{figure.name} worse than the target's{f', {figure.unit}' if figure.unit else ''}", fontsize=8
    )
    return drawing


def _cells(found: Agreement) -> list[str]:
    return [f"{found.rho:.2f} [{found.ci95[0]:.2f}, {found.ci95[1]:.2f}]", f"{found.leads:.0%}"]


def _rows(result: Result) -> dict[str, dict[str, Any]]:
    rows = store.read_utterances(Path(result.folder))
    return {
        row["utterance"]: {**row, "kept_beyond_exact": (row["accepted"] or 0) - (row.get("sum_alpha_exact") or 0.0)}
        for row in rows
        if row["error"] is None
    }


def _setting(result: Result) -> str:
    """What two runs have in common whose target would say the same alone."""
    config = result.values["config"]
    sampling = [config["decoding"].get(key) for key in _SAMPLING]
    return json.dumps([config["target"], config["seed"], sampling], sort_keys=True)


def _beside(rows: Rows, alone: Rows) -> dict[str, dict[str, Any]]:
    """The rows with the target's own as ``baseline_*`` where it was not decoded with them."""
    return {
        utterance: {
            **{f"baseline_{key}": value for key, value in alone.get(utterance, {}).items()},
            **{key: value for key, value in row.items() if value is not None},
        }
        for utterance, row in rows.items()
    }


def _has(rows: Rows, both: Sequence[str]) -> bool:
    return bool(rows) and all(row.get(column) is not None for row in rows.values() for column in both)


def _figures(results: Sequence[Result]) -> dict[str, Figure]:
    return {
        key: figure
        for result in results
        for key, figure in declared(result.values).items()
        if figure.better and figure.ratio
    }


def _scored(rows: Rows, figure: Figure) -> bool:
    assert figure.ratio is not None
    columns = [column for column in figure.ratio if column is not None]
    return all(
        row.get(side + column) is not None for row in rows.values() for side in ("", "baseline_") for column in columns
    )


def _ratio(
    tables: Sequence[Rows], shared: Sequence[str], columns: tuple[str, str | None], weights: np.ndarray
) -> np.ndarray:
    """Ratio of sums of each run in each resample: (runs, resamples)."""
    top, bottom = (
        np.array([[1.0 if name is None else rows[utterance][name] for utterance in shared] for rows in tables])
        @ weights.T
        for name in columns
    )
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _harm(tables: Sequence[Rows], shared: Sequence[str], figure: Figure, weights: np.ndarray) -> np.ndarray:
    """How much worse than the target alone: (runs, resamples)."""
    assert figure.ratio is not None
    top, bottom = figure.ratio
    alone = (f"baseline_{top}", None if bottom is None else f"baseline_{bottom}")
    change = _ratio(tables, shared, figure.ratio, weights) - _ratio(tables, shared, alone, weights)
    return -change if figure.better == "higher" else change


def _spearman(left: np.ndarray, right: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rank correlation over the runs chosen in each resample; equal values share their mean rank."""
    ranks = [_ranks(np.take_along_axis(values, chosen, 0)) for values in (left, right)]
    x, y = (each - each.mean(0) for each in ranks)
    scale = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    return np.divide((x * y).sum(0), scale, out=np.zeros_like(scale), where=scale > 0)


def _ranks(values: np.ndarray) -> np.ndarray:
    """Of each run among the runs: how many are below it, and half of those that are equal."""
    return np.stack([(values < own).sum(0) + (values == own).sum(0) / 2 for own in values])


def _agreement(rho: np.ndarray, best: np.ndarray) -> Agreement:
    low, high = np.quantile(rho[1:], [0.025, 0.975])
    return Agreement(float(rho[0]), (float(low), float(high)), float((rho[1:] >= best[1:]).mean()))
