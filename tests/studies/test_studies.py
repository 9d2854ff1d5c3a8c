"""The studies by name: what docs/studies.md says of each is a command that is right."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pcg.command import cli
from pcg.config import identity
from pcg.config.validate import ConfigError
from pcg.runner import parts, run
from pcg.studies import substitute

CONF = Path(cli.CONF)
DOCS = CONF.parent / "docs"
COMMAND = re.compile(r"^    python experiments/(run|substitute)\.py (.*?)(?:\s+#.*)?$", re.MULTILINE)
LAUNCHING = re.compile(r"launcher|max_batch_size|n_jobs|^devices=1$|^status=true$")


def commands(page: str) -> list[tuple[str, str]]:
    return COMMAND.findall((DOCS / page).read_text(encoding="utf-8").replace("\\\n", " "))


def checked() -> list[tuple[str, str]]:
    """Every command of the docs once, whatever launches it: ``test_launchers.py`` tries the launchers."""
    return list(
        dict.fromkeys(
            (entry, shlex.join(word for word in shlex.split(line) if not LAUNCHING.search(word)))
            for entry, line in commands("studies.md") + commands("sweeps.md")
        )
    )


def test_every_study_is_told_of_with_its_line_for_llasa() -> None:
    studies = {path.stem for path in (CONF / "experiment").glob("*.yaml")}
    page = (DOCS / "studies.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)) == studies
    llasa = {line.split()[line.startswith("-m")] for _, line in commands("studies.md") if "target=llasa_8b" in line}
    assert llasa == {f"experiment={study}" for study in studies - {"bundled_rules"}}


@pytest.mark.parametrize(("entry", "line"), checked())
def test_every_command_of_the_docs_is_right(entry: str, line: str) -> None:
    check = {"run": cli.check_run, "substitute": substitute.check}[entry]
    cli.check_command_line(entry, shlex.split(line), check)


def test_substitution_is_told_to_have_a_command_of_its_own() -> None:
    with pytest.raises(ConfigError, match=r"experiments/substitute\.py"):
        cli.check_command_line("run", ["-m", "experiment=substitution"])


def test_the_target_as_its_own_draft_is_one_model_and_keeps_everything(config) -> None:
    bigram = {"_target_": "pcg.tiny.Bigram"}
    own = config(target=bigram, draft=dict(bigram))
    loaded = parts.load(identity.canonical(own))
    assert loaded.draft is loaded.target
    found = run.run_once(own).values
    assert found["acceptance"]["alpha"] == 1.0
    assert found["acceptance"]["alpha_exact"] == pytest.approx(1.0)
