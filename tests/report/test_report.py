from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from pcg.command import cli
from pcg.config.validate import ConfigError
from pcg.report import columns, plots, report
from pcg.report.names import in_order, labels
from pcg.results.store import read_study
from pcg.runner.run import run_once
from pcg.types import Result


def pcg_at(theta: float) -> dict:
    groups = {"_target_": "pcg.groups.cosine.Cosine", "theta": theta, "source": "target_input"}
    return {"_target_": "pcg.acceptance.pcg.PCG", "groups": groups}


@pytest.fixture
def study(config, tmp_path: Path) -> Path:
    run_once(config(grouping=pcg_at(0.5)))
    run_once(config(grouping=pcg_at(0.0)))
    run_once(config())
    run_once(config(draft={}))
    return tmp_path / "outputs" / "tiny"


def test_table_plots_and_paths(study: Path, capsys) -> None:
    folder = report.show(study)
    shown = capsys.readouterr().out
    lines = (folder / "table.md").read_text().splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:6]] == [
        "target alone", "exact", "pcg theta=0", "pcg theta=0.5",
    ]  # fmt: skip
    assert [cell.strip() for cell in lines[0].split("|")[1:-1]] == [
        "method", "alpha", "tau", "tokens/s", "speed-up", "ideal", "RTF", "WER %", "MOS",
    ]  # fmt: skip
    for plot in (
        "alpha_theta",
        "speedup_theta",
        "quality_speedup",
        "quality_alpha",
        "accepted_position",
        "time_parts",
        "tau_ideal",
    ):
        assert (folder / f"{plot}.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (folder / f"{plot}.svg").read_text()
        assert f"{plot}.png" in shown
    for result in read_study(study):
        assert f"{result.folder}/result.json" in shown
        assert f"{result.folder}/audio/*.wav" in shown


def test_csv_holds_the_figures_of_result_json(study: Path) -> None:
    folder = report.show(study)
    rows = {row["run_id"]: row for row in csv.DictReader((folder / "table.csv").read_text().splitlines())}
    for result in read_study(study):
        row, values = rows[result.values["run_id"]], result.values
        assert float(row["acceptance.tau"]) == values["acceptance"]["tau"]
        assert float(row["quality.wer_ci95.high"]) == values["quality"]["wer_ci95"][1]
        assert row["acceptance.alpha"] == (
            "" if values["acceptance"]["alpha"] is None else str(values["acceptance"]["alpha"])
        )


@pytest.mark.parametrize(
    ("clock", "words"),
    [
        ("cpu", "which slows them down: target alone, exact. Their tokens/s"),
        ("wall", "not all passes alike: target alone, exact. Their tokens/s"),
    ],
)
def test_runs_timed_while_processes_shared_a_cpu_are_named(study: Path, capsys, clock: str, words: str) -> None:
    report.show(study)
    assert "shared one CPU" not in capsys.readouterr().out
    for path in study.glob("*/result.json"):
        values = json.loads(path.read_text())
        values |= {"devices": 2, "device": "NVIDIA H100" if values["method"] == "pcg" else "cpu (some)"}
        values["speed"]["clock"] = clock
        path.write_text(json.dumps(values))
    folder = report.show(study)
    for shown in (capsys.readouterr().out, (folder / "table.md").read_text()):
        assert words in " ".join(shown.split())


def test_empty_generations_have_a_column_where_there_are_some(study: Path) -> None:
    results = read_study(study)
    assert "empty" not in columns.table(results)[0]
    results[0].values["counts"]["empty"] = 2  # type: ignore[index]
    header, rows = columns.table(results)
    assert [row[header.index("empty")] for row in rows] == ["2"] + ["0"] * (len(results) - 1)
    assert len(columns.ranks(results)) == len(header) - 1


def test_alpha_by_slot_stands_below_where_a_target_says_several_tokens_a_frame(study: Path) -> None:
    folder = report.show(study)
    for name in ("table.md", "table.tex"):
        assert "slot 0" not in (folder / name).read_text()
    for path in study.glob("*/result.json"):
        values = json.loads(path.read_text())
        values["acceptance"]["alpha_by_slot"] = {"exact": [0.5, 0.25, None], "pcg": [0.75, 1.0, 0.0]}.get(
            values["method"]
        )
        path.write_text(json.dumps(values))
    report.show(study)
    lines = (folder / "table.md").read_text().splitlines()
    place = lines.index("| method | slot 0 | slot 1 | slot 2 |")
    assert lines[place + 2 : place + 6] == [
        "| exact | 0.500 | 0.250 | - |", "| pcg theta=0 | 0.750 | 1.000 | 0.000 |",
        "| pcg theta=0.5 | 0.750 | 1.000 | 0.000 |", "",
    ]  # fmt: skip
    assert "slot 2" in (folder / "table.tex").read_text()


def test_runs_that_differ_elsewhere_are_told_apart(config, tmp_path: Path) -> None:
    run_once(config(**{"decoding.gamma": 2}))
    run_once(config())
    run_once(config(draft={}))
    names = labels(in_order(read_study(tmp_path / "outputs" / "tiny")))
    assert sorted(names) == ["exact gamma=2", "exact gamma=3", "target alone"]


def test_a_study_without_runs_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no finished run"):
        report.show(tmp_path / "nothing")


def test_two_studies_side_by_side(config, study: Path, capsys) -> None:
    run_once(config(study="other", grouping=pcg_at(0.5)))
    run_once(config(study="other", grouping=pcg_at(0.3)))
    outputs = {"paths": {"outputs": str(study.parent)}}
    folder = report.show_studies({**outputs, "study": ["tiny", "other"]})
    assert folder == study.parent / "report-tiny-other"
    lines = [line.split(" | ") for line in (folder / "table.md").read_text().splitlines()]
    assert [cell.strip("| ") for cell in lines[0][:3]] == ["method", "study", "alpha"]
    assert [(line[0].strip("| "), line[1]) for line in lines[2:8]] == [
        ("target alone", "tiny"), ("exact", "tiny"), ("pcg theta=0", "tiny"), ("pcg theta=0.5", "tiny"),
        ("pcg theta=0.3", "other"), ("pcg theta=0.5", "other"),
    ]  # fmt: skip
    rows = list(csv.DictReader((folder / "table.csv").read_text().splitlines()))
    assert [row["study"] for row in rows] == ["tiny"] * 4 + ["other"] * 2
    assert rows[4]["method"] == "pcg theta=0.3 (other)"
    assert rows[4]["against_exact.alpha"]  # its exact twin is in the other study
    assert (folder / "index.html").exists()
    assert (folder / "alpha_theta.svg").exists()
    assert report.show_studies({**outputs, "study": "tiny"}) == study / "report"


def test_studies_that_are_not_there_are_named_with_those_that_are(study: Path) -> None:
    (study.parent / "empty").mkdir()
    with pytest.raises(ConfigError) as caught:
        report.check({"paths": {"outputs": str(study.parent)}, "study": ["tny", "tiny", "empty"]})
    assert [problem.partition(";")[0] for problem in caught.value.problems] == [
        f"study={name}: no finished run at {study.parent / name}/<run_id>/result.json" for name in ("tny", "empty")
    ]
    assert caught.value.problems[0].endswith("; did you mean 'tiny'? allowed: tiny")


def test_a_comma_makes_a_list_of_studies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", "study=a,b", "paths.outputs=c,d", "study=[e,f]"])
    cli.take_lists("study")
    assert sys.argv[1:] == ["study=[a,b]", "paths.outputs=c,d", "study=[e,f]"]


@pytest.mark.parametrize(
    ("places", "higher", "front"),
    [
        ([(1.0, 5.0), (1.5, 4.0), (1.2, 3.0), (0.9, 6.0)], True, [(0.9, 6.0), (1.0, 5.0), (1.5, 4.0)]),
        ([(1.0, 5.0), (1.5, 4.0), (1.2, 3.0), (0.9, 6.0)], False, [(1.2, 3.0), (1.5, 4.0)]),
        ([(1.0, 5.0), (1.0, 6.0)], True, [(1.0, 6.0)]),
    ],
)
def test_the_pareto_front_by_hand(places, higher: bool, front) -> None:
    assert plots.pareto_front(places, higher) == front


def test_no_two_runs_look_the_same() -> None:
    names = [
        "target alone",
        "exact",
        *(f"pcg theta=0.{at}" for at in range(6)),
        "pcg_block",
        "vadusa",
        "typical",
        "topk",
    ]
    looks = [(style["color"], style["marker"]) for style in plots._styles(names).values()]
    assert len(set(looks)) == len(names)
    assert looks[2][0] == looks[3][0] != looks[-4][0]  # pcg_block is no pcg


def test_parts_are_told_by_their_names(config, tmp_path: Path) -> None:
    run_once(config())
    run_once(config(draft={"_target_": "pcg.models.ngram.NGram", "order": 2}))
    names = labels(in_order(read_study(tmp_path / "outputs" / "tiny")))
    assert sorted(names) == ["exact draft=ngram", "exact draft=tiny"]


def test_runs_of_two_drafts_are_told_by_their_names_and_else_by_digests(config) -> None:
    made = run_once(config()).values

    def run(path: str, digest: str) -> Result:
        draft = {**made["config"]["draft"], "path": path}
        fingerprints = {**made["config"]["fingerprints"], "draft.path": digest}
        return Result("", {**made, "config": {**made["config"], "draft": draft, "fingerprints": fingerprints}})

    assert labels([run("heads/a", "1" * 10), run("heads/b", "2" * 10)]) == ["exact draft=a", "exact draft=b"]
    retrained = [run("heads/a", "1" * 10), run("heads/a", "2" * 10)]
    assert len(set(labels(retrained))) == 2
    assert all("1111111111" in name or "2222222222" in name for name in labels(retrained))


def test_runs_stand_in_the_order_of_what_was_swept(config, tmp_path: Path) -> None:
    for gamma in (10, 2):
        for theta in (0.5, 0.123456):
            run_once(config(grouping=pcg_at(theta), **{"decoding.gamma": gamma}))
    names = labels(in_order(read_study(tmp_path / "outputs" / "tiny")))
    assert names == [f"pcg theta={theta} gamma={gamma}" for theta in (0.1235, 0.5) for gamma in (2, 10)]
