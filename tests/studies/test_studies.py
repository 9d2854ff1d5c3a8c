"""The studies by name, and what docs/studies.md says of each."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pcg.command import cli
from pcg.config.run import parse
from pcg.config.validate import ConfigError
from pcg.runner import run
from pcg.runner.composition import load
from tests.test_docs import commands

CONF = Path(cli.CONF)
PAGE = CONF.parent / "docs" / "studies.md"


def test_every_study_is_told_of_with_its_line_for_llasa() -> None:
    studies = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    page = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == studies
    llasa = {line.split()[line.startswith("-m")] for _, line in commands(PAGE) if "target=llasa_8b" in line}
    assert llasa == {f"experiment={study}" for study in studies - {"bundled_rules", "neutts"}}  # of their own pairs


def test_substitution_is_told_to_have_a_command_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"experiments/substitute\.py"):
        cli.check_command_line("run", ["-m", "experiment=substitution"])


def test_the_target_as_its_own_draft_is_one_model_and_keeps_everything(config) -> None:
    bigram = {"_target_": "pcg.tiny.Bigram"}
    own = config(target=bigram, draft=dict(bigram))
    loaded = load(parse(own))
    assert loaded.draft is loaded.target
    found = run.run_once(own).values
    assert found["acceptance"]["alpha"] == 1.0
    assert found["acceptance"]["alpha_exact"] == pytest.approx(1.0)
