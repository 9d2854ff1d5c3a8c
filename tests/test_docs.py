"""Every command that the README, the docs and the configs show is one that the program takes."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pcg.command import cli
from pcg.command.main import programs
from pcg.runner import speak
from pcg.studies import bench, export, groups, offline, substitute

ROOT = Path(cli.CONF).parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md")), ROOT / "pcg/models/bundled/README.md",
         *sorted(ROOT.glob("conf/**/*.yaml"))]  # fmt: skip
_CALL = r"(?:python )?(?:experiments/([a-z]+)\.py|pcg ([a-z]+))(?![\w=.])"
# a line of its own, in a YAML's head also after a colon, or inside backticks
LINE = re.compile(rf"^(?:    |# +(?:[^`\n]*: )?){_CALL}([^\n]*)", re.MULTILINE)
INLINE = re.compile(rf"`{_CALL}([^`]*)`")
# test_launchers.py tries these; here they would only make a line be checked twice, or ask for a plugin
LAUNCHING = re.compile(r"launcher|max_batch_size|n_jobs|^devices=1$|^status=true$")
PLACEHOLDERS = {"STAGE": "codec", "corpus|heldout|codec|tokens|target|draft|eagle": "codec", "...": "",
                "grouping=mine": "--config-dir my_conf grouping=mine"}  # fmt: skip
# What looks at results on the disk has none to look at here.
CHECKS: dict[str, Callable[[Any], object] | None] = {
    "run": cli.check_run, "offline": offline.check, "substitute": substitute.check, "bench": bench.check,
    "export": export.check, "groups": groups.check, "gpu": None,  # its device is not here
    "speak": None,  # with its words
    "report": None, "score": None, "relog": None, "train": None,
}  # fmt: skip


def commands(page: Path) -> Iterator[tuple[str, str]]:
    """(program, arguments) of each command on a page."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    for pattern in (LINE, INLINE) if page.suffix == ".md" else (LINE,):
        for file, name, rest in pattern.findall(text):
            if pattern is INLINE and not rest:
                continue  # the name of a program, and no command
            for placeholder, value in PLACEHOLDERS.items():
                rest = rest.replace(placeholder, value)
            yield file or name, shlex.join(shlex.split(rest, comments=True))


def checked() -> list[tuple[str, str]]:
    """Every command once, whatever launches it."""
    found = {
        (name, shlex.join(word for word in shlex.split(line) if not LAUNCHING.search(word)))
        for page in PAGES
        for name, line in commands(page)
        if name not in ("doctor", "inspect", "ratings")
    }
    # test_configs.py tries every point of every study
    return sorted((name, line) for name, line in found if not re.fullmatch(r"-m experiment=\w+", line))


@pytest.fixture(autouse=True)
def _what_lies_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that commands name."""
    monkeypatch.chdir(tmp_path)
    Path("lines.txt").write_text("Good morning.\n")
    Path("my_voice.wav").touch()
    Path("my_conf/grouping").mkdir(parents=True)
    shutil.copy(Path(cli.CONF) / "grouping/exact.yaml", "my_conf/grouping/mine.yaml")


def test_commands_are_found() -> None:
    by_page = {str(page.relative_to(ROOT)): len(list(commands(page))) for page in PAGES}
    assert by_page["README.md"] > 3
    assert by_page["docs/studies.md"] > 10
    assert {name for name, _ in checked()} == set(programs())


@pytest.mark.parametrize(("name", "line"), checked())
def test_every_command_shown_is_right(name: str, line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [name, *shlex.split(line)])
    if name == "report":
        cli.take_lists("study")
    check = CHECKS[name]
    if name == "speak":
        text = cli.take_text(name)
        check = lambda config: speak.check(config | text)  # noqa: E731
    cli.check_command_line(name, sys.argv[1:], check)


@pytest.mark.parametrize("page", [page for page in PAGES if page.suffix == ".md"], ids=lambda page: page.name)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    linked = [page.parent / link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text)]
    named = [ROOT / name for name in re.findall(r"`((?:pcg|conf|tests|experiments|docs)/[\w./-]+)`", text)]
    missing = [str(path) for path in linked + named if not path.exists() and "mine" not in path.name]
    assert not missing
