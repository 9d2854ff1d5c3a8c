"""Does a distance predict what is heard? How far each distance agrees with the quality figures of a study's runs.

A run has a distance of its law from the target and, on the same utterances, a change of WER, similarity or MOS against
the target alone. A distance that predicts what is heard ranks the runs as that change does: Spearman's rank correlation
of the two over runs. Its interval resamples utterances and runs together, the same for all distances, so that these can
be compared. docs/sound.md has the findings.
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
from scipy.stats import rankdata

from pcg.results import store
from pcg.results.figures import declared
from pcg.sampling import SAMPLING
from pcg.types import Figure, Result

ALONE = "target alone"
FEWEST = 5  # runs: ranks of fewer say nothing
_RESAMPLES = 2_000
# Name -> the two columns of utterances.parquet that it is the ratio of, and its heading.
_DISTANCES: Mapping[str, tuple[str, str, str]] = {
    "sound": ("sum_sound", "sum_moved_positions", "sound, dB"),
    "embedding": ("sum_embedding", "sum_moved_positions", "embedding"),
    "tv": ("sum_tv", "tested", "TV"),
    "kl": ("sum_kl", "tested", "KL"),
    "overshoot_unlikely": ("sum_overshoot_unlikely", "tested", "overshoot at unlikely tokens"),
    "kept": ("kept_beyond_exact", "tested", "alpha beyond exact's (a control: no distance)"),
}
LEGEND = """Does a distance predict what is heard? Spearman's rank correlation (rho), over {runs} runs, of each
distance of the runs' laws from the target with how much worse the runs sound than the target alone on the same
{utterances} utterances: 1 if it ranks the runs as they sound, 0 if it says nothing about that. Intervals are 95 %, over
utterances and runs resampled together; `leads` is the share of these resamples in which no other distance has a higher
rho. docs/sound.md.

"""
Rows = Mapping[str, Mapping[str, Any]]  # of one run, by utterance


@dataclass(frozen=True)
class Agreement:
    """How a distance ranks the runs beside how much worse they are in one figure of quality.

    Attributes:
        rho: Spearman's rank correlation of the two: 1 if the ranks are the same, 0 if unrelated.
        ci95: over utterances and runs.
        leads: share of the resamples in which no other distance has a higher rho.
    """

    rho: float
    ci95: tuple[float, float]
    leads: float


@dataclass(frozen=True)
class Hearing:
    """The agreements of a study.

    Attributes:
        runs, utterances: how many were compared.
        figures: of quality, by key.
        agreements: by figure, and by distance.
        distances: of each run, by name.
        harm: by figure, how much worse each run is than the target alone.
    """

    runs: int
    utterances: int
    figures: Mapping[str, Figure]
    agreements: Mapping[str, Mapping[str, Agreement]]
    distances: Mapping[str, np.ndarray]
    harm: Mapping[str, np.ndarray]


def listen(results: Sequence[Result], seed: int = 0) -> Hearing | None:
    """The agreement of each distance with each figure of quality; None for fewer than ``FEWEST`` runs.

    Runs with a law are compared, on the utterances that all of them share, each with the target alone: decoded beside
    the run, or by a run of its own with the same seed and sampling. A distance that fewer than ``FEWEST`` runs have is
    left out; then so are the runs that lack one of the others.
    """
    alone = {_setting(result): _rows(result) for result in results if result.values["method"] == ALONE}
    runs = [
        _with_baseline(_rows(result), alone.get(_setting(result), {}))
        for result in results
        if result.values["distortion"]["tv"] is not None
    ]
    ratios = {
        name: (top, bottom)
        for name, (top, bottom, _) in _DISTANCES.items()
        if sum(_complete(run, (top, bottom)) for run in runs) >= FEWEST
    }
    runs = [run for run in runs if all(_complete(run, ratio) for ratio in ratios.values())]
    figures = {
        key: figure
        for result in results
        for key, figure in declared(result.values).items()
        if figure.better and figure.ratio and all(_complete(run, _both_sides(figure)) for run in runs)
    }
    shared = sorted(set.intersection(*(set(run) for run in runs))) if runs else []
    if len(runs) < FEWEST or len(shared) < 2 or not figures:
        return None

    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(shared), np.full(len(shared), 1 / len(shared)), size=_RESAMPLES)
    weights = np.concatenate([np.ones((1, len(shared))), weights])  # the first is the study itself
    chosen = rng.integers(len(runs), size=(len(runs), len(weights)))
    chosen[:, 0] = np.arange(len(runs))
    distances = {name: _ratio(runs, shared, ratio, weights) for name, ratio in ratios.items()}
    harm = {key: _harm(runs, shared, figure, weights) for key, figure in figures.items()}
    agreements = {}
    for key in figures:
        rhos = {name: _spearman(distance, harm[key], chosen) for name, distance in distances.items()}
        best = np.max([rho for name, rho in rhos.items() if name != "kept"], axis=0)
        agreements[key] = {name: _agreement(rho, best) for name, rho in rhos.items()}
    of_runs = ({name: values[:, 0] for name, values in by_name.items()} for by_name in (distances, harm))
    return Hearing(len(runs), len(shared), figures, agreements, *of_runs)


def table(hearing: Hearing) -> tuple[list[str], list[list[str]]]:
    """Header and cells: a row a distance, the one that agrees best with the first figure of quality on top."""
    first = next(iter(hearing.agreements))
    order = sorted(hearing.agreements[first], key=lambda name: -hearing.agreements[first][name].rho)
    figures = [hearing.figures[key].name for key in hearing.agreements]
    header = ["distance", *(f"{name} {part}" for name in figures for part in ("rho", "leads"))]
    rows = [
        [
            _DISTANCES[name][2],
            *(cell for by_distance in hearing.agreements.values() for cell in _cells(by_distance[name])),
        ]
        for name in order
    ]
    return header, rows


def draw(hearing: Hearing) -> Drawing:
    """Each run by each distance and by how much worse the first figure of quality is than the target's."""
    key, figure = next(iter(hearing.figures.items()))
    names = [name for name in hearing.distances if name != "kept"]
    drawing, panels = pyplot.subplots(
        1, len(names), sharey=True, squeeze=False, layout="constrained", figsize=(1.2 + 2.2 * len(names), 2.6)
    )
    for axes, name in zip(panels[0], names, strict=True):
        axes.plot(hearing.distances[name], figure.scale * hearing.harm[key], "o", color="#0072B2", markersize=4)
        axes.set_title(f"rho {_cells(hearing.agreements[key][name])[0]}", fontsize=8)
        axes.set_xlabel(_DISTANCES[name][2], fontsize=8)
        axes.axhline(0.0, color="black", linewidth=0.6)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
    unit = f", {figure.unit}" if figure.unit else ""
    panels[0, 0].set_ylabel(f"{figure.name} worse than the target's{unit}", fontsize=8)
    return drawing


def _cells(agreement: Agreement) -> list[str]:
    low, high = agreement.ci95
    return [f"{agreement.rho:.2f} [{low:.2f}, {high:.2f}]", f"{agreement.leads:.0%}"]


def _rows(result: Result) -> dict[str, dict[str, Any]]:
    return {
        row["utterance"]: {**row, "kept_beyond_exact": (row["accepted"] or 0) - (row.get("sum_alpha_exact") or 0.0)}
        for row in store.read_utterances(Path(result.folder))
        if row["error"] is None
    }


def _setting(result: Result) -> str:
    """What makes the target alone say the same in two runs."""
    config = result.values["config"]
    sampling = [config["decoding"].get(key) for key in (*SAMPLING, "max_tokens")]
    return json.dumps([config["target"], config["seed"], sampling], sort_keys=True)


def _with_baseline(rows: Rows, alone: Rows) -> dict[str, dict[str, Any]]:
    """The rows with those of the target alone as ``baseline_*`` where it was not decoded beside them."""
    return {
        utterance: {
            **{f"baseline_{key}": value for key, value in alone.get(utterance, {}).items()},
            **{key: value for key, value in row.items() if value is not None},
        }
        for utterance, row in rows.items()
    }


def _complete(rows: Rows, columns: Sequence[str]) -> bool:
    """Whether every utterance has every column."""
    return bool(rows) and all(row.get(column) is not None for row in rows.values() for column in columns)


def _both_sides(figure: Figure) -> list[str]:
    """The columns of a figure, of the run and of the target alone."""
    return [side + column for side in ("", "baseline_") for column in figure.columns if column is not None]


def _ratio(
    runs: Sequence[Rows], shared: Sequence[str], columns: tuple[str, str | None], weights: np.ndarray
) -> np.ndarray:
    """The ratio of sums of each run in each resample: (runs, resamples)."""
    top, bottom = (
        np.array([[1.0 if name is None else rows[utterance][name] for utterance in shared] for rows in runs])
        @ weights.T
        for name in columns
    )
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _harm(runs: Sequence[Rows], shared: Sequence[str], figure: Figure, weights: np.ndarray) -> np.ndarray:
    """How much worse each run is than the target alone in each resample: (runs, resamples)."""
    top, bottom = figure.columns
    alone = (f"baseline_{top}", bottom and f"baseline_{bottom}")
    change = _ratio(runs, shared, figure.columns, weights) - _ratio(runs, shared, alone, weights)
    return -change if figure.better == "higher" else change


def _spearman(left: np.ndarray, right: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rank correlation over the runs that are chosen in each resample; equal values share their mean rank."""
    x, y = (rankdata(np.take_along_axis(values, chosen, 0), axis=0) for values in (left, right))
    x, y = x - x.mean(0), y - y.mean(0)
    scale = np.sqrt((x * x).sum(0) * (y * y).sum(0))
    return np.divide((x * y).sum(0), scale, out=np.zeros_like(scale), where=scale > 0)


def _agreement(rho: np.ndarray, best: np.ndarray) -> Agreement:
    low, high = np.quantile(rho[1:], [0.025, 0.975])
    return Agreement(float(rho[0]), (float(low), float(high)), float((rho[1:] >= best[1:]).mean()))
