"""What people type, and what they are told where Hydra would not take it: one line, and how to write it."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pcg.command.cli import CONF, check_command_line
from pcg.command.overrides import quoted
from pcg.config.validate import ConfigError
from pcg.studies import offline


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_command_line("run", arguments)
    return caught.value.problems


@pytest.mark.parametrize("group", ["target", "grouping/groups", "experiment", "hydra/launcher"])
def test_a_group_is_neither_null_nor_taken_away_nor_left_open(group: str) -> None:
    for value in ("null", "???", "[1,2]"):
        (problem,) = problems("-m", f"{group}={value}")
        assert problem.startswith(f"{group}={value}: there is no such choice")
    (problem,) = problems(f"~{group}")
    assert problem.startswith(f"~{group}: a group cannot be taken away")


def test_how_to_do_without_is_said() -> None:
    assert "draft=none is a run without" in problems("draft=null")[0]
    assert problems("~metrics=bundled") == [
        "~metrics=bundled: a group cannot be taken away; metrics=none is a run without"
    ]
    assert problems("-m", "~hydra/launcher=1,2") == ["~hydra/launcher=1,2: a group cannot be taken away"]


@pytest.mark.parametrize(
    "text",
    ["Who, me?", "I don't know", '"Yes," she said.', "it's \"so\"", "~/x", "größe", "a (b) [c] {d}", "a&b; c | d",
     "a: b, c", "[x", "x]", "$HOME `ls`", "back\\slash's", "日本語", "a=b, c=d", "x" * 300 + "'"],
)  # fmt: skip
def test_any_text_can_be_given_as_one_is_told(text: str) -> None:
    (problem,) = problems("dataset=texts", "dataset.path=x", f"dataset.prompt_text={text}")
    told = problem.removeprefix(f"dataset.prompt_text={text}: ").partition(": ")[2]
    assert told == quoted("dataset.prompt_text", text)
    shell = ["bash", "-c", f"printf %s {told}"]
    argument = subprocess.run(shell, capture_output=True, check=True, encoding="utf-8").stdout
    seen: list[str] = []

    def see(config: Mapping[str, Any]) -> None:
        seen.append(config["dataset"]["prompt_text"])

    check_command_line("run", ["dataset=texts", "dataset.path=x", argument], see)
    assert seen == [text]


def test_text_that_reads_as_something_else() -> None:
    assert problems("study=2024") == ["study=2024: expected text; text goes into quotes: \"study='2024'\""]
    assert problems("study=true") == ["study=true: expected text; text goes into quotes: \"study='true'\""]
    assert problems("study=2026_11_30") == [
        "study=2026_11_30: expected text; text goes into quotes: \"study='2026_11_30'\""
    ]
    assert problems("study=1e3") == ["study=1e3: expected text; text goes into quotes: \"study='1e3'\""]
    check_command_line("run", ["study='2024'"])
    assert problems("study=a,b") == [
        "study=a,b: several values make a sweep; add -m, or quote what is one text: \"study='a,b'\""
    ]
    for numbers in ("seed=1,2", "decoding.temperature=0.5,1e-2", "seed=range(3)", "draft=none,bundled"):
        assert problems(numbers) == [f"{numbers}: several values make a sweep; add -m"]


@pytest.mark.parametrize(
    "override", ["hydra.sweeper=null", "hydra.sweeper.params={a: 1}", "hydra.launcher=null", "plan=1"]
)
def test_what_hydra_does_not_foresee_is_told_in_a_line(override: str) -> None:
    assert all("\n" not in problem for problem in problems("-m", override))


@pytest.mark.parametrize(
    "override", ["metrics.asr=null", "metrics.asr=1", "target.text=null", "target.text=x", "grouping.groups=null"]
)
def test_a_part_is_not_a_plain_value(override: str) -> None:
    (problem,) = problems(override)
    assert problem.startswith(override.partition("=")[0])


@pytest.mark.parametrize("file", sorted(Path(CONF, "experiment").glob("*.yaml")), ids=lambda file: file.stem)
def test_a_study_is_started_as_a_sweep(file: Path) -> None:
    params = yaml.safe_load(file.read_text(encoding="utf-8")).get("hydra", {}).get("sweeper", {}).get("params")
    if not params:
        return
    assert problems(f"experiment={file.stem}", "dataset.limit=1") == [
        f"experiment={file.stem}: a study of several runs, started by -m: "
        f"python experiments/run.py -m experiment={file.stem} dataset.limit=1"
    ]
    check_command_line("run", [f"experiment={file.stem}", "dry=true"])


def test_the_line_is_that_of_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["pcg run"])
    assert problems("experiment=theta_sweep")[0].endswith(": pcg run -m experiment=theta_sweep")


def test_one_name_is_a_list_of_one() -> None:
    points: list[str] = []

    def score(config: Mapping[str, Any]) -> None:
        points.extend(point.curve for point in offline.check(config)[1])

    check_command_line("offline", ["only=exact"], score)
    assert points == ["exact"]
    with pytest.raises(ConfigError, match=r"only\.exakt: no such rule; did you mean 'exact'"):
        check_command_line("offline", ["only=exakt"], offline.check)


def test_a_group_that_a_command_has_not_is_named_with_those_that_it_has() -> None:
    with pytest.raises(ConfigError, match=r"logger: pcg offline has no such group, so leave it out; it has codec"):
        check_command_line("offline", ["logger=none"])


def test_a_sweep_over_texts_that_read_as_numbers_is_told_as_it_was_typed() -> None:
    told = problems("-m", "study=2026_11_30,2026_12_01")
    assert [problem.partition(":")[0] for problem in told] == ["study=2026_11_30", "study=2026_12_01"]
    assert "study='2026_12_01'" in told[1]
