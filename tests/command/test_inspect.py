"""``pcg inspect`` tells what a folder is, and the line that it ends with runs."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from pcg.command import cli, inspect, theta
from pcg.command.folders import choices
from pcg.groups.cosine import Cosine
from pcg.models.checkpoint import Checkpoint, resolve_folder
from tests.shapes import make_llasa

TABLE = "model.embed_tokens.weight"


@pytest.fixture(scope="module")
def llasa(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llasa(tmp_path_factory.mktemp("llasa"))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """``told(path, ...)``: the status, and what was printed."""
    monkeypatch.setitem(inspect.CODECS, "xcodec2", (64, "<|s_{}|>"))

    def run(*paths: str | Path) -> tuple[int, str]:
        status = inspect.main([str(path) for path in paths])
        shown = capsys.readouterr()
        return status, shown.out + shown.err

    return run


def command_of(shown: str) -> list[str]:
    return shlex.split(re.search(r"^  pcg run (.+)$", shown, re.MULTILINE)[1])  # type: ignore[index]


def changed(folder: Path, to: Path, **config: Any) -> Path:
    shutil.copytree(folder, to)
    known = json.loads((to / "config.json").read_text())
    (to / "config.json").write_text(json.dumps(known | config))
    return to


def test_the_bundled_target(told) -> None:
    status, shown = told("bundled:target")
    assert status == 0
    assert "LlamaForCausalLM, 12 layers of width 320: our decoder reads it" in shown
    assert "parameters       17,170,240 in F16" in shown
    assert "4,096, ids 64 to 4,159; end 4" in shown
    assert re.search(r"^  bundled +shares its tokens$", shown, re.MULTILINE)
    assert re.search(r"^  eagle +trained on it$", shown, re.MULTILINE)
    assert re.search(r"^  chatterbox_nano +no: reads and speaks otherwise \(ChatterboxLM\)$", shown, re.MULTILINE)
    assert re.search(r"^  neutts_nano +no: has another text side$", shown, re.MULTILINE)
    assert "missing" not in shown
    words = command_of(shown)
    assert words[:3] == ["target=bundled", "draft=eagle", "codec=bundled"]
    cli.check_command_line("run", words)
    of_30 = float(words[-1].removeprefix("grouping.theta="))
    rows = Checkpoint(resolve_folder("bundled:target")).tensor(TABLE, None)[64:].float()
    assert 29 < Cosine(of_30).build(rows, None).report()["mean_size"] <= 30


def test_a_folder_and_its_drafts(told, llasa: Path, tmp_path: Path) -> None:
    other = make_llasa(tmp_path / "other", seed=1, layers=1)
    fewer = make_llasa(tmp_path / "fewer", audio_tokens=60)
    status, shown = told(llasa, other, fewer)
    assert status == 0
    assert "64 of <|s_{}|> ids 308 to 371" in shown
    assert "target=hf, llasa_1b, llasa_3b, llasa_8b, transformers" in shown
    assert f"{other} shares its tokens" in re.sub(" +", " ", shown)
    assert "the draft has 60 audio tokens, the target 64" in shown
    assert "no: trained on another target" in shown
    words = command_of(shown)
    assert words[:5] == ["target=hf", f"target.path={llasa}", "draft=hf", f"draft.path={other}", "codec=xcodec2"]
    cli.check_command_line("run", words)


def test_where_all_rows_share_a_mean_it_warns_and_centres(told, llasa: Path, tmp_path: Path) -> None:
    folder = changed(llasa, tmp_path / "with a space, and a comma")
    tensors = load_file(folder / "model.safetensors")
    tensors[TABLE] = tensors[TABLE] + 1
    save_file(tensors, folder / "model.safetensors")
    status, shown = told(folder)
    assert status == 0
    assert "Centre (grouping.groups.center=true)" in shown
    assert "Centre" not in told(llasa)[1]
    words = command_of(shown)
    assert "grouping.groups.center=true" in words
    cli.check_command_line("run", words)


def test_what_another_architecture_runs_through(told, llasa: Path, tmp_path: Path) -> None:
    folder = changed(llasa, tmp_path / "made", model_type="gemma", architectures=["GemmaForCausalLM"])
    status, shown = told(folder)
    assert status == 0
    assert "GemmaForCausalLM" in shown
    assert "through transformers" in shown
    assert command_of(shown)[0] == "target=transformers"


def test_tokens_that_no_text_side_knows_are_named_with_what_each_lacks(told, llasa: Path, tmp_path: Path) -> None:
    folder = changed(llasa, tmp_path / "neither")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        text = (folder / name).read_text().replace("<|s_", "<|sound_").replace("<|sound_7|>", "<|other|>")
        (folder / name).write_text(text)
    status, shown = told(folder)
    assert status == 1
    assert "63 of <|sound_{}|>" in shown
    assert "<|sound_7|>, though later ones are there" in shown
    assert re.search(r"text side phonemes: .*tokens.json is missing", shown)
    assert re.search(r"text side llasa: .* has no speech tokens", shown)
    assert "groups by cosine" in shown
    assert "pcg run" not in shown


def test_missing_weights_cost_the_groups_alone(told, llasa: Path, tmp_path: Path) -> None:
    folder = changed(llasa, tmp_path / "pickled")
    (folder / "model.safetensors").unlink()
    torch.save({}, folder / "pytorch_model.bin")
    status, shown = told(folder)
    assert status == 1
    assert "only pickled weights" in shown
    assert "64, ids 308 to 371" in shown
    assert "groups by" not in shown


def test_of_a_hub_model_no_weights_are_fetched(
    told, llasa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = changed(llasa, tmp_path / "cached")
    (cached / "model.safetensors").unlink()
    fetched = []

    def download(hub_id: str, allow_patterns: list[str], local_files_only: bool = False, **_: object) -> str:
        if local_files_only or hub_id != "someone/model":
            raise FileNotFoundError("not here")
        fetched.extend(allow_patterns)
        return str(cached)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    status, shown = told("someone/model")
    assert status == 1
    assert "*.json" in fetched
    assert not any("safetensors" in pattern or "bin" in pattern for pattern in fetched)
    assert "64, ids 308 to 371" in shown
    assert "holds neither model.safetensors" in shown
    status, shown = told("someone/else")
    assert status == 1
    assert "someone/else is neither a local folder" in shown


@pytest.mark.parametrize("arguments", [(), ("target=hf",), ("--help",)])
def test_it_takes_folders_and_nothing_else(told, arguments: tuple[str, ...]) -> None:
    assert told(*arguments)[0] == 2


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("bundled:codec", "is no language model: its config.json has no vocab_size"),
        ("bundled:eagle", "is a draft that reads its target"),
    ],
)
def test_folders_of_other_things_are_told(told, path: str, words: str) -> None:
    status, shown = told(path)
    assert status == 1
    assert words in shown


def test_no_model_drafts_for_itself_unasked(told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(theta, "show", lambda read, rows: None)  # told of the target above
    status, shown = told("bundled:draft")
    assert status == 0
    assert re.search(r"^  bundled +is the target itself$", shown, re.MULTILINE)
    assert "draft=ngram" in command_of(shown)


def test_no_such_folder(told, tmp_path: Path) -> None:
    status, shown = told(tmp_path / "nowhere")
    assert status == 1
    assert "nowhere/config.json is missing" in shown


def test_every_codec_that_it_knows_is_a_choice() -> None:
    here = set(choices("codec"))
    assert here - {"none"} <= set(inspect.CODECS)


def test_speech_tokens_of_other_names_are_told_to_the_choice_that_reads_the_rest(told, tmp_path: Path) -> None:
    target = make_llasa(tmp_path / "target", speech="<custom_token_{}>")
    draft = make_llasa(tmp_path / "draft", speech="<custom_token_{}>", layers=1, seed=1)
    status, shown = told(target, draft)
    assert status == 0
    assert "with text.speech='<custom_token_{}>'" in shown
    words = command_of(shown)
    for role in ("target", "draft"):
        assert any(word.startswith(f"{role}.text.speech=") and "<custom_token_{}>" in word for word in words)
    cli.check_command_line("run", words)
