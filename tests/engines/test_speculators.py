"""pcg export: an EAGLE-3 head in the layout of vllm-project/speculators, which vLLM reads and so do we."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from safetensors.torch import load_file, save_file
from transformers import AutoConfig

from pcg.command import cli
from pcg.config.validate import ConfigError
from pcg.models.eagle import EagleLM
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.studies import export
from pcg.training.students import EagleDraft
from pcg.training.teacher import Teacher
from tests.fakes import make_bundled_folder


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LlamaLM:
    folder = str(make_bundled_folder(tmp_path_factory.mktemp("target"), layers=4))
    return LlamaLM(folder, Phonemes(folder), "float32", "cpu", "speech")


def head(target: LlamaLM, folder: Path, reads: list[int]) -> Path:
    teacher, maker = Teacher(str(target.folder), target.text.speech_ids), EagleDraft(reads)
    maker.save(maker.make(teacher), folder, teacher)
    return folder


def with_own_rows(folder: Path, target: LlamaLM, count: int) -> None:
    """A head of its own over ``count`` of the target's speech tokens, its end among them."""
    speech = target.text.speech_ids
    ids = torch.cat([speech[: count - 1], speech[-1:]]).sort().values
    tensors = load_file(folder / "model.safetensors")
    tensors |= {"lm_head.weight": torch.randn(count, target.width).half(), "d2t": ids - torch.arange(count)}
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text()) | {"draft_vocab_size": count}
    (folder / "config.json").write_text(json.dumps(config))


def config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(cli.CONF, version_base="1.3"):
        return cli.plain(compose("export", list(overrides)))


def exported(target: LlamaLM, draft: Path, out: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    written = export.write(config(f"target.path={target.folder}", f"draft.path={draft}", f"out={out}", "gamma=4"))
    return json.loads((written / "config.json").read_text()), load_file(written / "model.safetensors")


def said(draft: EagleLM, target: LlamaLM) -> torch.Tensor:
    """Logits of three steps, two of which read the draft's own states."""
    prompt = [torch.arange(7, 19)]
    cache = target.prefill(prompt, 64, reads=draft.reads)
    own = draft.prefill(prompt, 64, target=cache)
    return torch.cat([draft.step(torch.tensor([[token]]), own) for token in (20, 21, 22)], 1)


@pytest.mark.parametrize("rows", [None, 40], ids=["the target's rows", "rows of its own"])
def test_what_is_written_is_the_same_head(rows: int | None, target: LlamaLM, tmp_path: Path) -> None:
    folder = head(target, tmp_path / "head", [1, 2, 3])
    if rows:
        with_own_rows(folder, target, rows)
    exported(target, folder, tmp_path / "out")
    made, ours = (EagleLM(str(tmp_path / name), target, "float32", "cpu") for name in ("out", "head"))
    assert made.reads == ours.reads == (1, 2, 3)
    torch.testing.assert_close(said(made, target), said(ours, target))


def test_the_layout_is_what_vllm_reads(target: LlamaLM, tmp_path: Path) -> None:
    told, tensors = exported(target, head(target, tmp_path / "head", [1, 2, 3]), tmp_path / "out")
    norms = {f"layers.0.{name}.weight" for name in ("hidden_norm", "input_layernorm", "post_attention_layernorm")}
    attention = {f"layers.0.self_attn.{name}_proj.weight" for name in "qkvo"}
    mlp = {f"layers.0.mlp.{name}_proj.weight" for name in ("gate", "up", "down")}
    assert set(tensors) == norms | attention | mlp | {"fc.weight", "norm.weight", "lm_head.weight", "d2t", "t2d"}
    assert told["speculators_model_type"] == told["speculators_config"]["algorithm"] == "eagle3"
    assert told["speculators_config"]["proposal_methods"][0]["speculative_tokens"] == 4
    assert told["speculators_config"]["verifier"]["name_or_path"] == str(target.folder)
    assert told["norm_before_residual"] is False  # missing, vLLM takes it for true
    assert told["eagle_aux_hidden_state_layer_ids"] == [1, 2, 3]  # vLLM's state i comes after i layers, as ours
    # vLLM: targets = arange + d2t, whose logits are set; speculators: t2d marks them
    rows, ids = tensors["lm_head.weight"], torch.arange(told["draft_vocab_size"]) + tensors["d2t"]
    assert ids.tolist() == sorted(target.text.speech_ids.tolist()) == tensors["t2d"].nonzero().flatten().tolist()
    table = load_file(target.folder / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(rows, table[ids])
    layer = told["transformer_layer_config"]
    read = AutoConfig.for_model(**layer)
    assert (read.num_hidden_layers, read.head_dim, read.vocab_size) == (1, 16, len(table))
    assert read.rope_parameters["rope_theta"] == layer["rope_theta"]


def test_a_head_that_reads_the_normed_state_cannot_be_said(target: LlamaLM, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"reads the states \[1, 2, 4\].*trainer\.student\.reads=\[1,2,3\]"):
        exported(target, head(target, tmp_path / "head", [1, 2, 4]), tmp_path / "out")
    with pytest.raises(ValueError, match="ascending"):
        exported(target, head(target, tmp_path / "other", [2, 1, 3]), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_of_another_target_is_refused(target: LlamaLM, tmp_path: Path) -> None:
    folder = head(target, tmp_path / "head", [1, 2, 3])
    told = json.loads((folder / "config.json").read_text()) | {"target_fingerprint": "0123456789"}
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match="fingerprint 0123456789"):
        exported(target, folder, tmp_path / "out")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["format=onnx"], "format='onnx': unknown format; allowed: speculators"),
        (["draft=bundled"], "draft: only a draft that reads the target"),
        (["draft=none"], "draft is required"),
        (["gamma=0"], "gamma=0: 1 or more"),
    ],
)
def test_what_is_wrong_is_named(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        export.check(config(*overrides))
