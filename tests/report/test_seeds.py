"""Runs of several seeds are one row, with intervals over utterances and seeds."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pcg.groups.token_sounds import SIDE
from pcg.metrics.aggregate import ratio
from pcg.report import columns, compare, report
from pcg.report.names import in_order
from pcg.report.seeds import Method, methods, note_on_single_seeds, shared_columns
from pcg.results.store import read_study, read_utterances
from pcg.runner import movers
from pcg.runner.run import run_once
from tests.report.test_report import pcg_at

SEEDS = (0, 1, 2)


@pytest.fixture
def study(config, tmp_path: Path) -> Path:
    """Exact and pcg of three seeds, topk of one."""
    for seed in SEEDS:
        run_once(config(seed=seed))
        run_once(config(seed=seed, grouping=pcg_at(0.0)))
    run_once(config(grouping={"_target_": "pcg.acceptance.topk.TopK", "k": 3}))
    return tmp_path / "outputs" / "tiny"


def of(study: Path) -> dict[str, Method]:
    return {method.values["method"]: method for method in methods(in_order(read_study(study)))}


def test_seeds_are_one_row_with_the_sums_of_all(study: Path) -> None:
    exact = of(study)["exact"]
    assert exact.seeds == list(SEEDS)
    runs = [run.values for run in exact.runs]
    counts, quality = exact.values["counts"], exact.values["quality"]
    assert counts["utterances"] == 18
    assert counts["accepted_by_position"][0] == sum(run["counts"]["accepted_by_position"][0] for run in runs)
    assert exact.values["acceptance"]["alpha"] == pytest.approx(counts["accepted"] / counts["tested"])
    rows = [row for run in exact.runs for row in read_utterances(Path(run.folder))]
    assert quality["wer"] == pytest.approx(sum(row["errors"] for row in rows) / sum(row["words"] for row in rows))
    assert quality["baseline_mos"] == pytest.approx(np.mean([row["baseline_mos"] for row in rows]))
    seconds = sum(sum(spent for part, spent in run["speed"]["seconds"].items() if part != "prefill") for run in runs)
    assert exact.values["speed"]["tokens_per_second"] == pytest.approx(counts["emitted"] / seconds)
    tested = sum(row["sum_tv"] for row in rows) / counts["tested"]
    assert exact.values["distortion"]["tv"] == pytest.approx(tested)
    assert exact.values["speed"]["speedup_ci95"][0] < exact.values["speed"]["speedup"]


def test_the_interval_is_over_utterances_and_seeds(study: Path) -> None:
    exact = of(study)["exact"]
    by_seed = [[row["mos"] for row in read_utterances(Path(run.folder))] for run in exact.runs]
    assert exact.values["quality"]["mos_ci95"] == list(ratio(np.array(by_seed).T).ci95)


def test_methods_are_paired_by_utterance_and_seed(study: Path) -> None:
    found = of(study)
    pcg, exact = found["pcg"], found["exact"]
    del pcg.rows[2]["u/1"]  # as if it had failed in one seed of pcg
    both = shared_columns([pcg.rows, exact.rows], [["mos"], ["mos"]])
    assert both is not None
    assert [column.shape for column in both] == [(5, 3), (5, 3)]
    assert compare.exact_twin(pcg, list(found.values())) is exact
    difference = compare.differences(pcg, exact, {"mos": ("mos", None)})["mos"]
    assert difference.value == pytest.approx((both[0] - both[1]).mean())
    assert difference.spread.seeds == 3
    one = shared_columns([found["topk"].rows, exact.rows], [["mos"], ["mos"]])
    assert one is not None
    assert one[0].shape == (6, 1)  # the seed that both have
    other = {7: exact.rows[1]}
    apart: Any = shared_columns([found["topk"].rows, other], [["mos"], ["mos"]])
    assert apart[0].shape == (6,)  # no seed in common: by utterance


def test_the_report_says_of_how_many_seeds_a_row_is(study: Path, capsys) -> None:
    folder = report.show(study)
    lines = (folder / "table.md").read_text().splitlines()
    assert [cell.strip() for cell in lines[0].split("|")[1:3]] == ["method", "seeds"]
    assert [[cell.strip() for cell in line.split("|")[1:3]] for line in lines[2:5]] == [
        ["exact", "3"], ["pcg theta=0", "3"], ["topk k=3", "1"]
    ]  # fmt: skip
    assert "one seed. The interval is over utterances" in "\n".join(lines)
    assert "could be seen | utterances for 1.5 |" in "\n".join(lines)
    assert "topk k=3: one seed." in " ".join(capsys.readouterr().out.split())
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [row["seeds"] for row in rows] == ["0 1 2", "0 1 2", "0"]


def test_a_study_of_one_seed_says_so(config, tmp_path: Path) -> None:
    run_once(config(seed=4))
    [alone] = methods(read_study(tmp_path / "outputs" / "tiny"))
    assert note_on_single_seeds([alone], ["exact"]).startswith("Every run: one seed.")
    assert alone.values["acceptance"] == alone.runs[0].values["acceptance"]


def test_what_could_have_been_seen_stands_beside_each_difference(study: Path) -> None:
    every = methods(in_order(read_study(study)))
    found = compare.pairs(every)
    assert [(first, second) for first, second, _ in found] == [(0, 1), (0, 2), (1, 2)]
    header, rows = columns.pairs_table(every, found)
    assert header == ["methods", "WER %", "could be seen", "utterances for 1.5", "MOS", "could be seen"]
    assert len({len(row) for row in rows} | {len(header)}) == 1
    wer = found[1][2]["wer"]
    if wer.spread is not None:
        assert rows[1][2] == f"{100 * wer.spread.detectable:.1f}"


def test_where_the_sound_distance_is_measured_makes_no_other_method(
    config, tmp_path: Path, monkeypatch, capsys
) -> None:
    """Seed 0 was run twice, without the distance and with it at every position; seed 1 without, seed 2 at some."""
    monkeypatch.setenv("PCG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(movers, "contexts_of", lambda *_: (torch.arange(2 * (2 * SIDE + 1)) % 5).view(2, -1))
    ssd = {"_target_": "pcg.acceptance.ssd.SSD", "beta": 0.4}
    for seed, every in ((0, None), (0, 1), (1, None), (2, 3)):
        run_once(config(seed=seed, grouping=ssd, **({} if every is None else {"decoding.sound_every": every})))
    results = in_order(read_study(tmp_path / "outputs" / "tiny"))
    [method] = methods(results)
    assert method.seeds == [0, 1, 2]
    measured = [run.values["distortion"] for run in method.runs]
    assert measured[1]["sound"] is None
    both, positions = (measured[0], measured[2]), [measured[seed]["moved_positions"] for seed in (0, 2)]
    assert positions[0] == method.runs[0].values["counts"]["tested"] > positions[1]
    pooled = method.values["distortion"]
    assert pooled["moved_positions"] == sum(positions)
    for key in ("sound", "embedding_rest"):
        sums = [found[key] * count for found, count in zip(both, positions, strict=True)]
        assert pooled[key] == pytest.approx(sum(sums) / sum(positions))
    assert pooled["sound_ci95"][0] < pooled["sound"] < pooled["sound_ci95"][1]
    assert pooled["tv"] == pytest.approx(sum(found["tv"] * run.values["counts"]["tested"] for found, run in zip(
        measured, method.runs, strict=True)) / method.values["counts"]["tested"])  # fmt: skip
    folder = report.show(tmp_path / "outputs" / "tiny")
    told = "the mean of those that did: ssd beta=0.4 in 2 of 3 (seed 0, 2)."
    assert told in (folder / "table.md").read_text()
    assert told in " ".join(capsys.readouterr().out.split())
