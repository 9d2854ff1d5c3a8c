"""``pcg doctor`` names what is missing with the line that installs it, and touches nothing."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

import pytest

from pcg.command import doctor, folders


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PCG_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def lacking(monkeypatch: pytest.MonkeyPatch):
    """``lacking(transformers=None, torch="1.0")``: not installed, and of another version."""

    def make(**versions: str | None) -> None:
        real, changed = metadata.version, {name.replace("_", "-"): found for name, found in versions.items()}

        def version(name: str) -> str:
            if (found := changed.get(name, real(name) if name not in changed else None)) is None:
                raise metadata.PackageNotFoundError(name)
            return found

        monkeypatch.setattr(metadata, "version", version)

    return make


def names(group: str, choice: str) -> set[str]:
    return {need.requirement.name for need in doctor.needs_of(group, choice)}


def test_where_all_is_there_the_default_run_would_work_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor.main([]) == 0
    shown = capsys.readouterr().out
    assert "the default run (`pcg run`) would work" in shown
    assert f"results  {tmp_path}/outputs (paths.outputs): can be written" in shown
    assert f"groups   {tmp_path}/cache ($PCG_CACHE): can be written" in shown
    assert f"torch {metadata.version('torch')}" in shown
    assert list(tmp_path.iterdir()) == []


def test_what_a_choice_needs_is_read_from_its_code() -> None:
    assert names("target", "bundled") == {"hibari-tts"}
    assert names("target", "llasa_8b") == names("codec", "xcodec2") == {"transformers"}
    assert names("target", "orpheus") == {"transformers"}  # of a function in another module
    assert names("text", "neutts") == {"transformers", "phonemizer", "espeakng-loader"}  # as it sets ``phonemes``
    assert names("engine", "vllm") == {"vllm"}
    assert names("draft", "ngram") == names("metrics", "none") == set()
    assert {"moonshine-voice", "Resemblyzer", "distillmos", "xls-r-sqa"} <= names("metrics", "bundled")
    assert names("metrics", "bundled_strict") == names("metrics", "bundled") | {"pocketsphinx"}


def test_an_engine_is_there_whatever_its_package_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    (need,) = doctor.needs_of("engine", "vllm")
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert need.problem == "vllm is missing"
    assert "pip install vllm" in need.line
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: object())
    assert need.problem is None


def test_what_is_missing_is_named_by_choice_with_its_line(lacking, capsys: pytest.CaptureFixture[str]) -> None:
    lacking(hibari_tts=None, distillmos=None, moonshine_voice="0.0.80", hydra_joblib_launcher=None)
    assert doctor.main([]) == 1
    shown = capsys.readouterr().out
    assert "bundled: hibari-tts is missing: pip install -e '.[bundled]'" in shown
    assert "moonshine-voice 0.0.80 is not moonshine-voice==0.0.73" in shown
    assert "distillmos is missing: pip install --no-deps distillmos==0.9.1" in shown
    assert "joblib: hydra-joblib-launcher is missing: pip install -e '.[sweeps]'" in shown
    assert "would not work" in shown
    assert "  target=bundled: hibari-tts is missing" in shown
    assert "libritts_local" in shown.partition("\n  dataset ")[2].partition("\n")[0]  # what needs none of it is ready


def test_an_extra_that_the_default_run_does_not_need_may_be_missing(lacking) -> None:
    lacking(pocketsphinx=None, hydra_optuna_sweeper=None)
    assert doctor.main([]) == 0


def test_without_the_core_nothing_else_is_looked_at(lacking, capsys: pytest.CaptureFixture[str]) -> None:
    lacking(torch="1.0", lightning=None)
    assert doctor.main([]) == 1
    shown = capsys.readouterr().out
    assert "lightning is missing: pip install 'lightning" in shown
    assert "torch 1.0 is not torch>=" in shown


def test_results_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "outputs").write_text("a file is in the way")
    assert doctor.main([]) == 1
    assert f"CANNOT be written: {tmp_path}/outputs" in capsys.readouterr().out.partition("would not work")[2]


def test_an_installed_wheel_is_told_another_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "CLONE", False)
    assert folders.install_line("sweeps") == "pip install 'pcg[sweeps]'"


def test_it_takes_no_overrides(capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor.main(["target=hf"]) == 2
    assert "takes no arguments" in capsys.readouterr().err
