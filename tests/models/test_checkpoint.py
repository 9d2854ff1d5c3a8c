"""A broken model folder is named in one sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from pcg.models.checkpoint import Checkpoint, dtype_of, resolve_folder
from tests.fakes import make_bundled_folder


def test_missing_shard(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    LlamaForCausalLM(LlamaForCausalLM.config_class.from_pretrained(folder)).save_pretrained(
        folder, max_shard_size="90KB"
    )
    shard = sorted(folder.glob("model-*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(FileNotFoundError, match=f"shards that are missing: {shard.name}"):
        Checkpoint(folder)


@pytest.mark.parametrize("size", [0, 5, 2000, -1000])
def test_truncated_file(size: int, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    file = folder / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[:size])
    with pytest.raises(ValueError, match=r"model\.safetensors is truncated or not safetensors"):
        Checkpoint(folder)


def test_pickle_only_folder_is_refused_with_how_to_convert(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    (folder / "model.safetensors").unlink()
    torch.save({"a": torch.zeros(1)}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickled weights only \(pytorch_model\.bin\).*refused.*save_pretrained"):
        Checkpoint(folder)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"config\.json is missing"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not valid JSON"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="expected an object"):
        Checkpoint(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match=r"neither model\.safetensors nor"):
        Checkpoint(tmp_path)


def test_missing_tensor_and_wrong_shape(tmp_path: Path) -> None:
    checkpoint = Checkpoint(make_bundled_folder(tmp_path))
    with pytest.raises(ValueError, match="no tensor lm_head"):
        checkpoint.tensor("lm_head.weight", (1, 1))
    with pytest.raises(ValueError, match=r"shape \(64,\), its config\.json says \(65,\)"):
        checkpoint.tensor("model.norm.weight", (65,))


def test_bundled_names_lie_inside_the_package() -> None:
    assert resolve_folder("bundled:target").parts[-4:] == ("pcg", "models", "bundled", "target")
    assert resolve_folder("./some/folder") == Path("some/folder")


def test_dtype_is_named() -> None:
    assert dtype_of("bfloat16") is torch.bfloat16
    with pytest.raises(ValueError, match="one of float32, bfloat16, float16"):
        dtype_of("int8")
