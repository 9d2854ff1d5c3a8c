"""Which distance agrees with the ear, on runs whose distances and errors are made up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pcg.report import hearing, report, tables
from pcg.report.hearing import FEWEST, listen
from pcg.report.seeds import Method
from pcg.results.figures import as_values
from pcg.types import Figure, Result

FIGURES = {
    "wer": Figure("WER", "%", ".1f", "lower", ("errors", "words")),
    "similarity": Figure("similarity", "", ".3f", "higher", ("alike", None)),
}
UTTERANCES = 40


def run(folder: Path, sound: float, tv: float, errors: float, seed: int, law: bool = True) -> Result:
    """Ten words an utterance, of which the target alone has one wrong, and the run ``errors`` more on average."""
    rng = np.random.default_rng(seed)
    folder.mkdir()
    rows: list[dict[str, Any]] = [
        {
            "utterance": f"u/{index}", "error": None, "tested": 50, "accepted": 40, "sum_alpha_exact": 30.0,
            "sum_tv": 50 * tv, "sum_kl": 50 * tv, "sum_overshoot_unlikely": 0.0,
            "sum_sound": 5 * sound, "sum_moved_positions": 5,
            "errors": 1 + int(rng.poisson(errors)), "words": 10, "alike": 0.9 - errors / 20,
            "baseline_errors": 1, "baseline_words": 10, "baseline_alike": 0.9,
        }
        for index in range(UTTERANCES)
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "utterances.parquet")
    values = {
        "method": "made up", "distortion": {"tv": tv if law else None}, "figures": as_values(FIGURES),
        "config": {"target": {}, "seed": 0, "decoding": {"temperature": 0.8}},
    }  # fmt: skip
    return Result(str(folder), values)


@pytest.fixture
def runs(tmp_path) -> list[Result]:
    """What is heard goes with the sound distance; total variation knows nothing of it."""
    tvs = np.random.default_rng(0).permutation(12) / 12
    return [run(tmp_path / str(i), 0.1 * i, tvs[i], 0.3 * i, i) for i in range(12)]


def test_the_distance_that_ranks_runs_as_the_ear_does_leads(runs, tmp_path) -> None:
    found = listen([*runs, run(tmp_path / "lawless", 0.0, 0.0, 9.0, 99, law=False)])
    assert found is not None
    assert (found.runs, found.utterances) == (12, UTTERANCES)
    for figure in ("wer", "similarity"):
        heard = found.agreements[figure]
        assert heard["sound"].rho > 0.9
        assert heard["sound"].ci95[0] > 0.7
        assert heard["sound"].leads > 0.95
        assert heard["tv"].ci95[0] < 0.5
        assert heard["tv"].rho == pytest.approx(heard["kl"].rho)
    assert found.agreements["similarity"]["sound"].rho == pytest.approx(1)  # worse is less of it
    assert found.agreements["wer"]["kept"].rho == 0  # the same for all
    assert "embedding" not in found.agreements["wer"]  # nobody measured it
    header, rows = hearing.table(found)
    assert header == ["distance", "WER rho", "WER leads", "similarity rho", "similarity leads"]
    assert rows[0][0] == "sound, dB"


def test_the_target_alone_may_be_a_run_of_its_own(runs, tmp_path) -> None:
    whole = listen(runs)
    for result in runs:
        rows = pyarrow.parquet.read_table(Path(result.folder) / "utterances.parquet")
        bare = rows.drop_columns([name for name in rows.column_names if name.startswith("baseline_")])
        pyarrow.parquet.write_table(bare, Path(result.folder) / "utterances.parquet")
    assert listen(runs) is None
    alone = run(tmp_path / "alone", 0.0, 0.0, 0.0, 0, law=False)
    decoding = {**alone.values["config"]["decoding"], "ras": {"window": 10, "tau": 0.1}}
    for change in ({"seed": 1}, {"decoding": decoding}):  # said with other random numbers, or sampled otherwise
        config = {**alone.values["config"], **change}
        other = Result(alone.folder, {**alone.values, "method": "target alone", "config": config})
        assert listen([*runs, other]) is None
    found = listen([*runs, Result(alone.folder, {**alone.values, "method": "target alone"})])
    assert found is not None
    assert whole is not None
    assert found.agreements == whole.agreements


def test_it_is_the_rank_correlation(runs) -> None:
    left, right = np.random.default_rng(1).integers(0, 6, (2, 9, 1)).astype(float)
    from scipy.stats import spearmanr

    found = hearing._spearman(left, right, np.arange(9)[:, None])
    assert found[0] == pytest.approx(spearmanr(left[:, 0], right[:, 0]).statistic)


def test_few_runs_have_no_ranks(runs) -> None:
    assert listen(runs[: FEWEST - 1]) is None
    assert listen(runs[:FEWEST]) is not None
    assert listen([]) is None


def test_the_report_shows_it_and_forgets_it(runs, tmp_path, capsys) -> None:
    report._write_hearing(tables.console(120), [Method(run.folder, run.values, (run,)) for run in runs], tmp_path)
    shown, page = capsys.readouterr().out, (tmp_path / "hears.md").read_text()
    assert "hears.md, of 12 runs" in shown
    assert page.startswith("Does a distance predict what is heard?")
    assert "| sound, dB |" in page
    assert (tmp_path / "hears.png").exists()
    report._write_hearing(tables.console(120), [], tmp_path)
    assert not (tmp_path / "hears.md").exists()
