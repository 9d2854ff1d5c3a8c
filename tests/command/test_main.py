"""The console command: what it lists, what it starts, what a shell completes."""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pcg.command import cli, folders
from pcg.command import main as command
from tests.warm import start

COMMAND = [sys.executable, "-c", "from pcg.command.main import main; main()"]


def pcg(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/bin/pcg", *arguments])
    command.main()


@pytest.mark.parametrize("asked", [[], ["--help"], ["-h"], ["help"]])
def test_alone_it_lists_every_program_with_what_it_is_for(
    asked: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pcg(monkeypatch, *asked)
    told = dict(re.findall(r"^  (\w+) +(.+)$", capsys.readouterr().out, re.MULTILINE))
    assert set(told) == {path.stem for path in folders.EXPERIMENTS.glob("*.py")} | {"doctor", "inspect", "ratings"}
    assert next(iter(told)) == "run"
    assert told["run"] == "one run, or with -m a sweep"
    assert not any("experiments/" in purpose for purpose in told.values())


def test_a_word_that_it_does_not_know_names_the_nearest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        pcg(monkeypatch, "repot", "study=a")
    assert capsys.readouterr().err.startswith(
        "pcg repot: there is no such command; did you mean 'report'? allowed: bench, doctor, export, gpu, groups, "
    )


def test_a_program_finds_what_it_would_find_as_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Launchers and workers pickle the task of ``__main__``, or run its file again."""
    program = tmp_path / "run.py"
    program.write_text("import sys\nprint(__name__, __file__, sys.argv, sys.modules['__main__'].__dict__ is globals())")
    monkeypatch.setattr(command, "EXPERIMENTS", tmp_path)
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])  # put back afterwards
    pcg(monkeypatch, "run", "-m", "seed=1,2")
    assert capsys.readouterr().out == f"__main__ {program} ['pcg run', '-m', 'seed=1,2'] True\n"


@pytest.mark.parametrize(
    ("line", "offered"),
    [("pcg re", "relog report"), ("pcg run", "run"), ("/venv/bin/pcg off", "offline"), ("pcg doctor ", "")],
)
def test_a_shell_completes_commands(
    line: str, offered: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    pcg(monkeypatch, "-sc", "query=bash")
    assert capsys.readouterr().out.strip() == offered


def started(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    program = folder / "pcg"
    program.write_text("from pcg.command.main import main\nmain()\n")
    (asked := folder / "asked").mkdir()
    done = start(program, arguments, asked, **environment)
    assert not list(asked.iterdir())
    shutil.rmtree(asked)
    return done


def test_hydras_own_flags_work_through_it(tmp_path: Path) -> None:
    shown = started(tmp_path, "run", "--cfg", "job", "--package", "grouping", "grouping=ssd", "grouping.beta=0.1")
    assert shown.returncode == 0, shown.stderr
    assert "beta: 0.1\n" in shown.stdout
    wrong = started(tmp_path, "run", "grouping=sdd")
    assert (wrong.returncode, "did you mean 'ssd'?" in wrong.stderr) == (2, True)
    assert "Traceback" not in wrong.stderr


def test_a_shell_completes_keys_and_choices(tmp_path: Path) -> None:
    found = started(tmp_path, "-sc", "query=bash", COMP_LINE="pcg train trainer=c")
    assert found.stdout.split() == ["trainer=codec", "trainer=corpus"]


@pytest.mark.parametrize("asked", [["-sc", "install=bash"], ["report", "-sc", "install=bash"]])
def test_completion_is_installed_for_the_commands_name(asked: list[str], tmp_path: Path) -> None:
    program = tmp_path / "bin" / "pcg"
    program.parent.mkdir()
    program.write_text("from pcg.command.main import main\nmain()\n")
    done = start(program, asked, tmp_path)
    assert done.stdout.rstrip().endswith("-F hydra_bash_completion pcg"), done.stderr


@pytest.mark.parametrize(
    ("typed", "text", "left"),
    [
        (["Good morning.", "draft=none"], "Good morning.", ["draft=none"]),
        (["It", "is", "late", "+a.b=1", "--config-dir", "mine"], "It is late", ["+a.b=1", "--config-dir", "mine"]),
        (["1 + 1=2 is true"], "1 + 1=2 is true", []),
        (["-", "out=-"], "from a pipe", ["out=-"]),
        (["text='as a key'"], None, ["text='as a key'"]),
    ],
)
def test_words_are_text(typed: list[str], text: str | None, left: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["pcg speak", *typed])
    monkeypatch.setattr(sys, "stdin", io.StringIO("from a pipe"))
    assert cli.take_text("speak") == ({} if text is None else {"text": text})
    assert sys.argv[1:] == left


def test_without_words_speak_says_how_it_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["pcg speak"])
    with pytest.raises(SystemExit) as ended:
        cli.take_text("speak")
    assert ended.value.code == 0
    assert 'pcg speak "Good morning."\n' in capsys.readouterr().out
