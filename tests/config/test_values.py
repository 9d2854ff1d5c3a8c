"""Numbers are finite and in range, places lie on this machine: told before anything is loaded or written."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from pcg.command.cli import check_command_line
from pcg.config import values
from pcg.config.validate import ConfigError, check, check_trainer
from pcg.config.values import problems_of_values
from pcg.runner import rescore
from pcg.studies import offline
from tests.config.numbers import numbers_of_every_config


def problems(*arguments: str, command: str = "run", check: Any = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_command_line(command, arguments, *([check] if check else []))
    return caught.value.problems


def test_numbers_are_finite() -> None:
    keys = {"grouping.beta": "inf", "decoding.temperature": "nan", "logger.timeout": "-inf", "decoding.top_p": "1e999"}
    found = problems("grouping=ssd", *(f"{key}={value}" for key, value in keys.items()))
    for key, value in keys.items():
        assert f"{key}={value}: expected a finite number" in found  # as it was typed


def test_every_number_of_every_config_is_finite() -> None:
    for command, key, config in numbers_of_every_config(float("nan")):
        assert f"{key}=nan: expected a finite number" in problems_of_values(config), (command, key)


def test_numbers_in_lists_count_and_in_other_commands() -> None:
    found = problems("thetas=[0.4,nan]", "grids.ssd.beta=[inf]", command="offline", check=offline.check)
    assert {"thetas.1=nan: expected a finite number", "grids.ssd.beta.0=inf: expected a finite number"} <= set(found)
    found = problems(
        "trainer=codec", "trainer.learning_rate=nan", "trainer.steps=0", command="train", check=check_trainer
    )
    assert found == ["trainer.learning_rate=nan: expected a finite number", "trainer.steps=0: 1 or more",
                     "trainer.learning_rate=nan: above 0"]  # fmt: skip


def test_values_are_in_range() -> None:
    overrides = [
        "dataset.limit=0", "target.dtype=torch.load", "target.head=both", "codec.iterations=0",
        "grouping.groups.source=x", "logger.audio=-1", "logger.timeout=0", "logger.tags=['']",
        "seed=9223372036854775808", "logger.project=a/b", f"study={'s' * 201}", "decoding.temperature=1e-30",
        "decoding.repetition_penalty=1e-09", "grouping.theta=x", "decoding.top_p=0.0", "plan.alpha=1.5",
        "decoding.gamma=1001", "threads=1000000",
    ]  # fmt: skip
    found = problems(*overrides)
    for override in overrides:
        key, _, value = override.partition("=")
        (problem,) = [each for each in found if each.startswith(f"{key}=")]
        assert value.strip("[]'") in problem


def test_repetition_aware_sampling_is_checked_key_by_key() -> None:
    found = problems("decoding.ras={window: 0, tua: 0.1}", "decoding.penalty_window=0")
    assert found == ["decoding.ras.tua: unknown key; did you mean 'tau'? allowed: tau, window",
                     "decoding.ras.window=0: 1 to 10,000",
                     "decoding.penalty_window=0: 1 to 100,000, or null"]  # fmt: skip


def test_values_of_other_choices_are_in_range() -> None:
    for command in (
        ["draft=ngram", "draft.order=0"],
        ["grouping=vadusa", "grouping.draws=1000000000"],
        ["grouping=dropmatch", "grouping.masks=1000000000"],
        ["codec=xcodec2", "codec.chunk_seconds=0"],
        ["codec=xcodec2", "codec.dtype=float64"],
        ["metrics=paper", "metrics.asr.recogniser.batch_size=0"],
        ["metrics=paper", "metrics.speaker.device=gpu"],
        ["dataset=libritts", "dataset.prompt_seconds=[8,3]"],
        ["dataset=libritts", "dataset.limit=0"],
        ["grouping/groups=random", "grouping.groups.like.theta=2.0"],
    ):
        (problem,) = problems(*command)
        assert command[1].partition("=")[0].rpartition(".")[0] in problem


def test_paths_are_on_this_machine() -> None:
    uris = {"paths.outputs": "s3://bucket/x", "target.path": "hf://owner/name", "dataset.path": "https://x.org/a",
            "dataset.prompt": "file:///tmp/x"}  # fmt: skip
    found = problems("dataset=texts", "dataset.prompt_text=x", *(f"{key}='{uri}'" for key, uri in uris.items()))
    for key, uri in uris.items():
        assert f"{key}={uri!r}: expected a path on this machine; URIs are not read or written" in found


def test_text_may_hold_an_address() -> None:
    assert problems_of_values({"dataset": {"prompt_text": "https://x.org"}, "hub": {"path": "owner/name"}}) == []


def test_home_is_read_and_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    config = {"paths": {"outputs": "~/res"}, "dataset": {"path": "~", "prompt_text": "~ 5"}, "target": {"path": "a~b"}}
    assert values.resolved(config) == {
        "paths": {"outputs": "/home/me/res"},
        "dataset": {"path": "/home/me", "prompt_text": "~ 5"},
        "target": {"path": "a~b"},
    }
    assert values.study_folder("~/res", "x") == Path("/home/me/res/x")


def test_results_that_cannot_be_written_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    for outputs in (tmp_path / "file", tmp_path / "file" / "below", Path(os.devnull)):
        (problem,) = problems(f"paths.outputs={outputs}")
        assert problem.startswith(f"paths.outputs='{outputs}': ")
        assert problem.endswith("is no folder")
        check_command_line("run", [f"paths.outputs={outputs}", "dry=true"])
    monkeypatch.setattr(os, "access", lambda place, how: place != tmp_path)
    assert problems(f"paths.outputs={tmp_path}/new") == [
        f"paths.outputs='{tmp_path}/new': {tmp_path} may not be written to"
    ]


def test_a_name_that_no_file_can_have_ends_in_words(tmp_path: Path) -> None:
    (problem,) = problems(f"study={'s' * 300}", f"paths.outputs={tmp_path}")
    assert problem.endswith("a folder name of letters, digits, _ + - and dots, of at most 200 bytes")
    (problem,) = problems(f"run={'r' * 300}", command="score", check=rescore.check)
    assert problem == f"{'r' * 300}/result.json: File name too long"


def test_a_run_that_is_begun_from_python_is_checked_too(config: Any) -> None:
    with pytest.raises(ConfigError, match=r"grouping\.theta=inf"):
        check(config(**{"grouping.theta": float("inf")}))
