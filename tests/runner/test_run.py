from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet
import pytest
import soundfile

from pcg.config.validate import ConfigError
from pcg.report.predicted import seconds_by_batch
from pcg.results.records import Records
from pcg.runner import run as run_module
from pcg.runner.run import RunFailed, run_once
from pcg.runner.tracking import log_again
from tests.tiny.parts import Bigram, Recorder, calls

GROUPS = {"_target_": "pcg.groups.cosine.Cosine", "theta": 0.4, "center": False, "source": "target_input"}
TIMED = {"wall_seconds", "started", "speed", "git"}


def figures(values: dict) -> dict:
    """What must not depend on when and how often a run was started."""
    return {key: value for key, value in values.items() if key not in TIMED}


def test_a_run_is_complete_on_disk(config):
    result = run_once(config(), ["grouping=exact"])
    folder = Path(result.folder)
    values = json.loads((folder / "result.json").read_text())
    assert values == result.values
    assert values["overrides"] == ["grouping=exact"]
    counts, acceptance, speed = values["counts"], values["acceptance"], values["speed"]
    assert counts["utterances"] == 6
    assert counts["emitted"] == counts["accepted"] + counts["recovered"] + counts["bonus"]
    assert counts["finished"] + counts["truncated"] == 6
    assert sum(counts["accepted_by_position"]) == counts["accepted"]
    assert acceptance["alpha"] == counts["accepted"] / counts["tested"]
    assert acceptance["tau"] == counts["emitted"] / counts["target_passes"]
    assert acceptance["alpha_ci95"][0] <= acceptance["alpha"] <= acceptance["alpha_ci95"][1]
    assert 0 < acceptance["alpha_exact"] < 1
    assert values["distortion"]["tv"] == pytest.approx(0, abs=1e-6)
    own, alone = zip(*seconds_by_batch(folder).values(), strict=True)
    per_token = [sum(spent for spent, _ in side) / sum(tokens for _, tokens in side) for side in (alone, own)]
    assert speed["clock"] == "cpu"
    assert speed["speedup"] == pytest.approx(per_token[0] / per_token[1])
    assert set(speed["seconds"]) == {"prefill", "draft", "target", "rule", "other"}
    assert values["quality"].keys() >= {"wer", "wer_ci95", "mos", "baseline_wer", "baseline_mos_ci95"}
    rows = pyarrow.parquet.read_table(folder / "utterances.parquet").to_pylist()
    assert [row["utterance"] for row in rows] == [f"u/{index}" for index in range(6)]
    for row in rows:
        samples, rate = soundfile.read(folder / row["audio"])
        assert rate == 16_000
        assert len(samples) == 8 * len(row["tokens"])  # the voice prompt is cut off
        assert len(row["kinds"]) == len(row["tokens"])
    assert "u/0" not in (folder / "run.log").read_text()  # nothing failed


def test_by_the_law_of_a_rule_no_speed_is_claimed(config):
    values = run_once(config(**{"decoding.mode": "law"})).values
    assert values["acceptance"]["alpha"] is None
    assert values["acceptance"]["tau"] == 1.0
    assert values["counts"]["draft_passes"] == values["counts"]["target_passes"] == values["counts"]["emitted"]
    assert values["speed"]["speedup"] is values["speed"]["ideal_speedup"] is None
    assert set(values["distortion"].values()) == {None}
    assert values["quality"].keys() >= {"wer", "baseline_wer"}
    assert values["quality"]["wer"] == values["quality"]["baseline_wer"]  # exact's law is the target's own
    assert "gamma" not in values["config"]["decoding"]


def test_a_rule_without_a_law_cannot_be_drawn_from(config):
    with pytest.raises(ConfigError, match=r"decoding\.mode=law: Fly states no law of one position"):
        run_once(config(**{"decoding.mode": "law", "grouping": {"_target_": "pcg.acceptance.fly.Fly"}}))


def test_the_truncated_target_is_drawn_from_beside_its_rule(config):
    topk = {"_target_": "pcg.acceptance.topk.TopK", "k": 2}
    cut = run_once(config(**{"decoding.mode": "truncated", "grouping": topk})).values
    alone = run_once(config(draft=None, **{"decoding.top_k": 2})).values
    assert cut["quality"]["wer"] == alone["quality"]["wer"]
    assert cut["counts"]["emitted"] == alone["counts"]["emitted"]
    assert cut["speed"]["speedup"] is None
    with pytest.raises(ConfigError, match=r"decoding\.mode=truncated: Exact keeps no set of tokens"):
        run_once(config(**{"decoding.mode": "truncated"}))


def test_several_candidates_keep_more(config):
    one, three = (run_once(config(**{"decoding.candidates": count})) for count in (1, 3))
    before, after = one.values, three.values
    assert after["acceptance"]["alpha"] > before["acceptance"]["alpha"]
    assert after["acceptance"]["tau"] > before["acceptance"]["tau"]
    assert after["counts"]["drafted"] == 3 * 3 * after["counts"]["rounds"]
    assert after["counts"]["rival_accepted"] > before["counts"]["rival_accepted"] == 0
    assert after["distortion"]["tv"] < 1e-6
    rows = pyarrow.parquet.read_table(Path(three.folder) / "utterances.parquet").to_pylist()
    assert {kind for row in rows for kind in row["kinds"]} >= {"exact", "candidate", "recovered", "bonus"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"grouping": {"_target_": "pcg.acceptance.fly.Fly"}}, "grouping: Fly tests one candidate a position; exact"),
        (
            {"grouping": {"_target_": "pcg.acceptance.pcg.PCG", "residual": "draft", "groups": GROUPS}},
            "grouping: candidates support only residual=target",
        ),
    ],
)
def test_what_cannot_have_several_candidates_is_named(config, changes, message):
    with pytest.raises(ConfigError, match=rf"decoding\.candidates=2: {message}"):
        run_once(config(**{"decoding.candidates": 2, **changes}))


def test_a_target_that_takes_no_tree_is_named(config, monkeypatch):
    monkeypatch.delattr(Bigram, "step_tree")
    with pytest.raises(ConfigError, match=r"decoding\.candidates=2: target: a Bigram scores no tree of tokens"):
        run_once(config(**{"decoding.candidates": 2}))


def test_target_alone(config):
    values = run_once(config(draft={})).values
    assert values["method"] == "target alone"
    assert values["acceptance"] == {
        "alpha": None,
        "alpha_ci95": None,
        "tau": 1.0,
        "tau_ci95": None,
        "alpha_exact": None,
        "alpha_by_slot": None,
    }
    assert values["speed"]["speedup"] == 1.0
    assert values["speed"]["baseline_tokens_per_second"] == values["speed"]["tokens_per_second"]
    assert values["counts"]["drafted"] == 0
    assert values["counts"]["accepted_by_position"] == []


def test_exact_without_noise_says_what_the_target_says_at_temperature_0(config):
    both = [run_once(config(**{"decoding.temperature": 0.0, **change})) for change in ({}, {"draft": {}})]
    tokens = [pyarrow.parquet.read_table(Path(r.folder) / "utterances.parquet")["tokens"].to_pylist() for r in both]
    assert tokens[0] == tokens[1]


def test_tokens_do_not_depend_on_the_batch_size(config):
    results = [run_once(config(**{"decoding.batch_size": size})) for size in (1, 2, 5)]
    counts = [result.values["counts"] for result in results]
    assert counts[0] == counts[1] == counts[2]
    assert len({result.folder for result in results}) == 3


def test_models_are_loaded_once_and_a_finished_run_is_not_done_again(config, caplog):
    caplog.set_level("INFO")
    run_once(config())
    first = dict(calls)
    assert first["models"] == 2
    run_once(config(**{"grouping.theta": 0.7}))  # exact does not read theta
    assert calls == first
    assert "already done" not in caplog.text  # a duplicate within the sweep is dropped silently
    run_once(config(seed=1))
    assert calls["models"] == 2
    assert calls["codecs"] == 1
    run_module._done_here.clear()
    run_once(config())
    assert "already done" in caplog.text


def test_the_same_baseline_is_scored_once_in_a_sweep(config):
    run_once(config(draft={}))
    before = calls["clips"]
    run_once(config(**{"draft.noise": 0.0}))
    assert calls["clips"] - before <= 6  # of 12 clips the 6 of the target alone were known


class Killed(BaseException):
    """As good as SIGKILL for what is written: nothing of the run's own cleans up after it."""


@pytest.mark.parametrize("after", [0, 1, 2])
@pytest.mark.parametrize("torn", [b"", b'{"batch": 9, "rows', b"\x00\x00"])
def test_a_killed_run_goes_on_where_it_was(config, monkeypatch, after, torn):
    unbroken = run_once(config(study="unbroken"))
    real, left = Records.append, [after]

    def append(self, record):
        if left[0] == 0:
            with self.path.open("ab") as file:
                file.write(torn)
            raise Killed
        left[0] -= 1
        real(self, record)

    monkeypatch.setattr(Records, "append", append)
    with pytest.raises(Killed):
        run_once(config())
    monkeypatch.setattr(Records, "append", real)
    calls.clear()
    resumed = run_once(config())
    differs = {"study"}
    a, b = figures(unbroken.values), figures(resumed.values)
    assert {k: v for k, v in a.items() if k not in differs} == {k: v for k, v in b.items() if k not in differs}
    lines = (Path(resumed.folder) / "batches.jsonl").read_text().splitlines()
    assert [json.loads(line)["batch"] for line in lines] == [0, 1, 2]  # none was decoded twice


def test_a_failing_utterance_is_recorded_and_the_others_go_on(config):
    result = run_once(config(**{"dataset.poison": [1]}))
    assert result.values["failures"] == [{"utterance": "u/1", "reason": "RuntimeError: cannot say poison"}]
    assert result.values["counts"]["utterances"] == 5  # its batch fellow too
    rows = pyarrow.parquet.read_table(Path(result.folder) / "utterances.parquet").to_pylist()
    assert [row["error"] is None for row in rows] == [True, False, True, True, True, True]


def test_too_many_failures_end_the_run_and_are_tried_again(config):
    changes = {"dataset.poison": [0, 1, 2], "max_failures": 2, "decoding.batch_size": 1}
    with pytest.raises(RunFailed, match=r"(?s)3 utterance\(s\) failed \(max_failures=2\).*u/0.*u/2"):
        run_once(config(**changes))
    result = run_once(config(**{**changes, "max_failures": 3}))
    assert len(result.values["failures"]) == 3
    assert result.values["counts"]["utterances"] == 3


def test_a_run_in_which_all_fail_has_no_result(config):
    with pytest.raises(RunFailed):
        run_once(config(**{"dataset.poison": [0, 1], "dataset.limit": 2}))


def test_a_failing_metric_fails_its_utterances_not_the_run(config, monkeypatch):
    def score(self, audio, utterances):
        if any(said.id == "u/3" for said in utterances):
            raise FloatingPointError("NaN")
        return [{"errors": 0, "words": 1, "mos": 1.0} for _ in audio]

    monkeypatch.setattr("tests.tiny.parts.Loudness.score", score)
    assert run_once(config()).values["failures"] == [{"utterance": "u/3", "reason": "FloatingPointError: NaN"}]


def test_a_score_that_is_no_number_is_a_failure(config, monkeypatch):
    def score(self, audio, utterances):
        return [{"errors": 0, "words": 1, "mos": float("nan") if said.id == "u/0" else 2.0} for said in utterances]

    monkeypatch.setattr("tests.tiny.parts.Loudness.score", score)
    result = run_once(config(**{"decoding.batch_size": 1}))
    assert result.values["failures"] == [{"utterance": "u/0", "reason": "ValueError: metric 'loudness' gave mos=nan"}]


def test_the_logger_is_told_when_all_is_on_disk(config):
    result = run_once(config(logger={"_target_": "pcg.tiny.Recorder"}))
    (told, rows, folder) = Recorder.told[0]
    assert told.values == result.values
    assert folder == Path(result.folder)
    assert len(rows) == 6


def test_a_failing_logger_costs_nothing_and_is_reported(config, caplog, tmp_path):
    result = run_once(config(logger={"_target_": "pcg.tiny.Recorder", "fails": True}))
    assert (Path(result.folder) / "result.json").exists()
    assert "no network" in caplog.text
    assert "`pcg relog study=tiny`" in caplog.text
    log_again(tmp_path / "outputs" / "tiny", {"_target_": "pcg.tiny.Recorder"})
    assert Recorder.told[0][0].values == result.values


def test_ctrl_c_finishes_the_batch_first(config, monkeypatch):
    real = Records.append

    def append(self, record):
        import os
        import signal

        real(self, record)
        if record["batch"] == 0:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Records, "append", append)
    with pytest.raises(KeyboardInterrupt):
        run_once(config())
    monkeypatch.setattr(Records, "append", real)
    result = run_once(config())
    assert len((Path(result.folder) / "batches.jsonl").read_text().splitlines()) == 3
