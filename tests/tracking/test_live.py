"""W&B while a run decodes: offline runs are read back, figure by figure."""

from __future__ import annotations

import gc
import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wandb

from pcg.results import store
from pcg.runner import run as run_module
from pcg.runner.run import RunFailed, run_once
from pcg.tracking import session
from pcg.tracking.wandb import flatten
from tests.tracking.offline import exit_code, history, items, records, summary

LOGGER = {"_target_": "pcg.tracking.wandb.WandB", "mode": "offline", "timelines": 0, "audio": 1}
RESULT = {
    "alpha": "acceptance.alpha", "tau": "acceptance.tau", "tokens_per_second": "speed.tokens_per_second",
    "tokens_per_second_whole": "speed.tokens_per_second_whole", "speedup": "speed.speedup",
    "wer": "quality.wer", "mos": "quality.mos",
}  # fmt: skip


def test_each_utterance_is_a_step_with_the_figures_so_far(config) -> None:
    result = run_once(config(logger=LOGGER))
    folder = Path(result.folder)
    steps = history(folder)
    assert [step["step"] for step in steps] == list(range(6))
    assert [step["run/done"] for step in steps] == pytest.approx([2 / 6, 2 / 6, 4 / 6, 4 / 6, 1, 1])
    assert [step["run/failures"] for step in steps] == [0] * 6
    assert steps[-1]["run/seconds_left"] == 0
    values = flatten(result.values)
    for name, key in RESULT.items():
        assert steps[-1][f"run/{name}"] == pytest.approx(values[key]), name
    first = [row for row in store.read_utterances(folder) if row["batch"] == 0]
    accepted, tested = (sum(row[key] for row in first) for key in ("accepted", "tested"))
    assert steps[0]["run/alpha"] == steps[1]["run/alpha"] == pytest.approx(accepted / tested)
    told = summary(folder)
    assert (told["state"], told["reason"], exit_code(folder)) == ("finished", None, 0)
    metrics = {record.metric.glob_name: record.metric for record in records(folder) if record.metric.glob_name}
    assert metrics["utterance/*"].summary.none
    assert metrics["run/*"].summary.last


def test_the_page_names_every_key(config) -> None:
    page = (Path(__file__).parents[2] / "docs" / "wandb.md").read_text()
    keys = re.findall(r"^\| (`.*?`) \|", page.partition("## Keys")[2], re.MULTILINE)
    documented = {key for cell in keys for key in re.findall(r"`(.+?)`", cell) if "/" in key and "*" not in key}
    result = run_once(config(logger=LOGGER))
    steps = history(Path(result.folder))
    found = {key for step in steps for key in step if key.startswith(("run/", "utterance/"))}
    metrics = {"run/wer", "run/mos"} | {
        f"utterance/{side}{column}" for side in ("", "baseline_") for column in ("errors", "words", "mos")
    }
    assert found - documented - metrics == {key for key in found if key.startswith("utterance/sum_")}
    assert documented <= found


def test_a_run_that_was_never_live_is_logged_the_same(config) -> None:
    live = run_once(config(logger=LOGGER))
    late = run_once(config(logger={**LOGGER, "live": False}, study="late"))
    steps = [history(Path(result.folder)) for result in (live, late)]
    assert len(steps[0]) == len(steps[1])
    for one, other in zip(*steps, strict=True):
        assert set(one) == set(other)
        for key in ("step", "utterance/accepted", "run/alpha", "run/wer", "run/done"):
            assert one[key] == other[key]


def stopped_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Ctrl-C comes when so many batches are on disk."""
    append, done = run_module.Records.append, []

    def stop(self: Any, record: Any) -> None:
        append(self, record)
        done.append(record)
        if len(done) == batches:
            raise KeyboardInterrupt

    monkeypatch.setattr(run_module.Records, "append", stop)
    return monkeypatch


def test_a_run_that_goes_on_is_the_same_run_and_no_step_comes_twice(config, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        stopped_after(2, patch)
        with pytest.raises(KeyboardInterrupt):
            run_once(config(logger=LOGGER))
    (folder,) = (path for path in (tmp_path / "outputs" / "tiny").iterdir() if path.is_dir())
    assert [step["step"] for step in history(folder)] == [0, 1]  # the second batch was on disk, and nobody told of it
    assert (summary(folder)["state"], exit_code(folder)) == ("stopped", 130)
    before = next(record.run.run_id for record in records(folder) if record.run.run_id)
    result = run_once(config(logger=LOGGER))
    steps = history(folder)
    assert [step["step"] for step in steps] == list(range(6))
    assert steps[-1]["run/alpha"] == pytest.approx(result.values["acceptance"]["alpha"])
    assert (summary(folder)["state"], summary(folder)["reason"], exit_code(folder)) == ("finished", None, 0)
    assert next(record.run.run_id for record in records(folder) if record.run.run_id) == before


def test_a_run_that_fails_says_why(config, tmp_path: Path) -> None:
    with pytest.raises(RunFailed):
        run_once(config(**{"logger": LOGGER, "dataset.poison": [0, 1, 2, 3, 4], "max_failures": 1}))
    (folder,) = (path for path in (tmp_path / "outputs" / "tiny").iterdir() if path.is_dir())
    told = summary(folder)
    assert told["state"] == "failed"
    assert "utterance(s) failed (max_failures=1)" in told["reason"]
    assert exit_code(folder) == 1
    assert history(folder)[-1]["run/failures"] >= 2


@pytest.fixture
def agent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The environment that an agent of a sweep gives its runs, in a process that has not asked W&B for it yet."""
    wandb.teardown()
    parameters = tmp_path / "config.yaml"
    parameters.write_text("wandb_version: 1\ngrouping.theta:\n  value: 0.4\n")
    for name, value in (
        ("WANDB_SWEEP_ID", "s1"), ("WANDB_RUN_ID", "byagent"), ("WANDB_PROJECT", "speech"), ("WANDB_ENTITY", "me"),
        ("WANDB_SWEEP_PARAM_PATH", str(parameters)),
    ):  # fmt: skip
        monkeypatch.setenv(name, value)
    yield
    wandb.teardown()
    gc.collect()  # the file that it left open


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # W&B leaves a file open
@pytest.mark.usefixtures("agent")
def test_a_run_that_an_agent_starts_is_the_agents(config) -> None:
    wanted = {"maximise": "acceptance.alpha", "subject_to": []}
    result = run_once(config(logger=LOGGER, objective=wanted))
    found = [record.run for record in records(Path(result.folder)) if record.run.run_id]
    assert {(run.run_id, run.sweep_id, run.project) for run in found} == {("byagent", "s1", "speech")}
    assert summary(Path(result.folder))["objective"] == result.values["acceptance"]["alpha"]
    config_told = {key: value for run in found for key, value in items(run.config.update).items()}
    assert config_told["grouping.theta"] == 0.4


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_point_that_is_there_already_is_told_to_the_agent_at_once(config, request: pytest.FixtureRequest) -> None:
    result = run_once(config(logger={**LOGGER, "mode": "disabled"}))
    assert not list(Path(result.folder).glob("wandb"))
    request.getfixturevalue("agent")
    run_once(config(logger=LOGGER))
    assert len(history(Path(result.folder))) == 6
    assert summary(Path(result.folder))["acceptance.alpha"] == result.values["acceptance"]["alpha"]


@pytest.fixture
def silent_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Takes connections and never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.getsockname()[1]}")
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield


@pytest.mark.usefixtures("silent_service")
def test_a_service_that_hangs_costs_no_time_and_loses_nothing(config, monkeypatch, caplog) -> None:
    """The run takes longer than the service may, so that nothing is left to wait for."""
    append = run_module.Records.append
    monkeypatch.setattr(session, "ANSWER", 1.0)

    def slow(self: Any, record: Any) -> None:
        time.sleep(0.5)
        append(self, record)

    monkeypatch.setattr(run_module.Records, "append", slow)
    run_once(config(logger=None, study="warm"))
    began = time.perf_counter()
    run_once(config(logger={**LOGGER, "mode": "offline"}, study="offline"))
    offline = time.perf_counter() - began
    began = time.perf_counter()
    result = run_once(config(logger={**LOGGER, "mode": "online", "timeout": 120}))
    online = time.perf_counter() - began
    assert online < offline + 60, (online, offline)
    assert "the logger failed" in caplog.text
    assert "`wandb sync " in caplog.text
    assert "`pcg relog study=tiny`" in caplog.text
    folder = Path(result.folder)
    assert [step["step"] for step in history(folder)] == list(range(6))
    assert summary(folder)["acceptance.alpha"] == result.values["acceptance"]["alpha"]
    began = time.perf_counter()
    run_once(config(logger={**LOGGER, "mode": "online", "timeout": 120}, study="next"))  # it is not waited for again
    assert time.perf_counter() - began < offline + 60
    session._silent.clear()
