"""A broken model folder is named in one sentence."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from pcg import digest
from pcg.models import hub
from pcg.models.checkpoint import Checkpoint, dtype_of, read_json, resolve_folder
from pcg.models.contents import read_contents
from pcg.models.hf import HfLM
from pcg.models.llama import LlamaConfig, LlamaLM
from pcg.models.phonemes import Phonemes
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
    with pytest.raises(ValueError, match=r"only pickled weights \(pytorch_model\.bin\).*refused.*save_pretrained"):
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
    with pytest.raises(ValueError, match="choose float32, bfloat16, float16"):
        dtype_of("int8")


def rewritten(folder: Path, changes: dict[str, torch.Tensor], **config: object) -> Path:
    """A model folder with other tensors, and other keys in its config.json."""
    file, settings = folder / "model.safetensors", folder / "config.json"
    save_file({**load_file(file), **changes}, file)
    settings.write_text(json.dumps({**json.loads(settings.read_text()), **config}))
    return folder


WEIGHT = "model.layers.0.mlp.up_proj.weight"


@pytest.mark.parametrize(
    ("changes", "config", "sign"),
    [
        ({}, {"quantization_config": {"quant_method": "fp8"}}, "config.json has quantization_config"),
        ({}, {"quantization": {"bits": 4, "group_size": 64}}, "config.json has quantization"),
        ({WEIGHT: torch.zeros(176, 64).to(torch.float8_e4m3fn)}, {}, rf"{WEIGHT} is F8_E4M3"),
        ({WEIGHT: torch.zeros(176, 64).to(torch.float8_e5m2)}, {}, rf"{WEIGHT} is F8_E5M2"),
        ({WEIGHT: torch.zeros(176, 64, dtype=torch.int8)}, {}, rf"{WEIGHT} is I8"),
        ({WEIGHT: torch.zeros(88, 64, dtype=torch.uint8)}, {}, rf"{WEIGHT} is U8"),
        ({f"{WEIGHT}_scale": torch.ones(1)}, {}, rf"there is {WEIGHT}_scale"),
        ({f"{WEIGHT}_scale_inv": torch.ones(1)}, {}, rf"there is {WEIGHT}_scale_inv"),
        ({WEIGHT.replace("weight", "SCB"): torch.ones(176)}, {}, "there is model.layers.0.mlp.up_proj.SCB"),
        ({WEIGHT.replace("weight", "scales"): torch.ones(176)}, {}, "there is model.layers.0.mlp.up_proj.scales"),
        ({WEIGHT.replace("weight", "qweight"): torch.ones(8, dtype=torch.int32)}, {}, r"model.*\.qweight is I32"),
    ],
)
def test_quantised_weights_are_refused_by_name(
    changes: dict[str, torch.Tensor], config: dict[str, object], sign: str, tmp_path: Path
) -> None:
    folder = rewritten(make_bundled_folder(tmp_path), changes, **config)
    message = rf"holds quantised weights \({sign}.*\): only F64, F32, BF16, F16 are supported\. Use .*dequantize"
    with pytest.raises(ValueError, match=message):
        Checkpoint(folder)


def test_other_integers_and_scales_are_no_quantisation(tmp_path: Path) -> None:
    others = {
        "bn.num_batches_tracked": torch.tensor(3),
        "attn.mask": torch.zeros(2, dtype=torch.bool),
        "block.scale": WIDE,
    }
    folder = rewritten(make_bundled_folder(tmp_path), others, quantization_config=None)
    assert Checkpoint(folder).tensor("block.scale", (2,)).tolist() == WIDE.tolist()


WIDE = torch.tensor([3e38, 3e38])  # finite, and their sum is not


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_tensor_that_is_not_finite_is_named(bad: float, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    norm = load_file(folder / "model.safetensors")["model.norm.weight"]
    norm[3] = bad
    rewritten(folder, {"model.norm.weight": norm})
    with pytest.raises(ValueError, match=r"model\.norm\.weight holds NaN or infinity in 1 of its 64 numbers: fetch it"):
        Checkpoint(folder).tensor("model.norm.weight", (64,))


@pytest.mark.parametrize("model", [partial(LlamaLM, head="speech"), HfLM])
def test_models_refuse_weights_that_are_not_finite(model: Callable[..., object], tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    weight = load_file(folder / "model.safetensors")[WEIGHT]
    weight[5, 6:9] = torch.nan
    rewritten(folder, {WEIGHT: weight})
    with pytest.raises(ValueError, match=rf"{WEIGHT} holds NaN or infinity in 3 of its"):
        model(str(folder), Phonemes(str(folder)), "float32", "cpu")


def test_a_key_that_is_missing_is_named_with_its_file(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text('{"mel": {"bands": 100}, "layers": [{"width": 3}]}', encoding="utf-8")
    config = read_json(file)
    assert (config["mel"], config.get("hop"), {**config}.keys()) == ({"bands": 100}, None, {"mel", "layers"})
    for ask, key in (
        (lambda: config["hop"], "hop"),
        (lambda: config["mel"]["hop"], "hop"),
        (lambda: config["layers"][0]["heads"], "heads"),
    ):
        with pytest.raises(ValueError, match=f"{file} lacks '{key}'"):
            ask()
    assert pickle.loads(pickle.dumps(config)) == config


def test_every_key_of_a_llama_that_is_missing_is_named(tmp_path: Path) -> None:
    source = resolve_folder("bundled:draft") / "config.json"
    whole = json.loads(source.read_text(encoding="utf-8"))
    file = tmp_path / "config.json"
    needed = ("num_attention_heads", "num_hidden_layers", "hidden_size", "intermediate_size", "vocab_size",
              "max_position_embeddings", "rms_norm_eps")  # fmt: skip
    for key in needed:
        file.write_text(json.dumps({name: value for name, value in whole.items() if name != key}), encoding="utf-8")
        with pytest.raises(ValueError, match=f"{file} lacks '{key}'"):
            LlamaConfig.read(read_json(file), tmp_path)


def sharded(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """A folder in two shards with their index, and its tensors."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    placed = {name: f"model-0000{1 + (place % 2)}-of-00002.safetensors" for place, name in enumerate(names)}
    for shard in set(placed.values()):
        save_file({name: tensors[name] for name in names if placed[name] == shard}, folder / shard, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return folder, tensors


def test_a_file_beside_shards_of_another_model_is_refused(tmp_path: Path) -> None:
    folder, tensors = sharded(make_bundled_folder(tmp_path))
    save_file(tensors, folder / "model.safetensors")
    message = r"two models: model\.safetensors, and model\.safetensors\.index\.json, which names 2 shard"
    with pytest.raises(ValueError, match=message):
        Checkpoint(folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(tensors, "model.safetensors")})
    )
    assert set(Checkpoint(folder).names) == set(tensors)  # an index of that very file


def test_the_index_says_which_shard_counts(tmp_path: Path) -> None:
    folder, tensors = sharded(make_bundled_folder(tmp_path))
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    stale = folder / next(shard for shard in set(index.values()) if shard != index["model.norm.weight"])
    save_file({**load_file(stale), "model.norm.weight": torch.full((64,), 7.0)}, stale, {"format": "pt"})
    assert torch.equal(Checkpoint(folder).tensor("model.norm.weight", (64,)), tensors["model.norm.weight"])
    load_speaking(folder)
    with pytest.raises(
        ValueError, match=r"model\.norm\.weight is in both .* and .*transformers does not look up in the index"
    ):
        HfLM(str(folder), Phonemes(str(folder)), "float32", "cpu")


def test_a_shard_without_what_the_index_says_is_named(tmp_path: Path) -> None:
    folder, _ = sharded(make_bundled_folder(tmp_path))
    file = folder / "model.safetensors.index.json"
    index = json.loads(file.read_text())
    index["weight_map"]["model.norm.weight"] = "model-00001-of-00002.safetensors"
    index["weight_map"]["lost.weight"] = "model-00001-of-00002.safetensors"
    file.write_text(json.dumps(index))
    with pytest.raises(
        ValueError, match=r"model-00001-of-00002\.safetensors holds (model\.norm|lost)\.weight, but it does"
    ):
        Checkpoint(folder)


def test_an_adapter_is_not_passed_over(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"holds an adapter \(adapter_config\.json\).*merge_and_unload"):
        Checkpoint(folder)


def load_speaking(folder: Path) -> LlamaLM:
    return LlamaLM(str(folder), Phonemes(str(folder)), "float32", "cpu", "speech")


BIAS = "model.layers.0.self_attn.q_proj.bias"


@pytest.mark.parametrize(
    ("more", "config", "named"),
    [
        ({BIAS: torch.ones(64)}, {}, r"self_attn\.q_proj\.bias"),
        ({}, {"num_hidden_layers": 1}, r"model\.layers\.1\.input_layernorm\.weight, .* and 5 more"),
        ({"lm_head.bias": torch.ones(9)}, {}, r"lm_head\.bias"),
        ({"score.weight": torch.ones(2, 64)}, {}, r"score\.weight"),
    ],
)
@pytest.mark.parametrize("model", [partial(LlamaLM, head="speech"), HfLM])
def test_a_tensor_that_no_part_reads_is_named(
    model: Callable[..., object], more: dict[str, torch.Tensor], config: dict[str, int], named: str, tmp_path: Path
) -> None:
    folder = rewritten(make_bundled_folder(tmp_path), more, **config)
    with pytest.raises(ValueError, match=rf"{named}: no part of the model reads"):
        model(str(folder), Phonemes(str(folder)), "float32", "cpu")
    if model is not HfLM:
        [problem] = read_contents(str(folder)).problems  # so `pcg inspect` does not say that it runs
        assert "no part of the model reads" in problem


@pytest.mark.parametrize("model", [partial(LlamaLM, head="speech"), HfLM])
def test_what_is_made_anew_may_be_there(model: Callable[..., object], tmp_path: Path) -> None:
    names = ("model.layers.0.self_attn.rotary_emb.inv_freq", "model.rotary_emb.inv_freq")
    folder = rewritten(make_bundled_folder(tmp_path), {name: torch.ones(8) for name in names})
    model(str(folder), Phonemes(str(folder)), "float32", "cpu")
    assert not read_contents(str(folder)).problems


@pytest.mark.parametrize("model", [partial(LlamaLM, head="speech"), HfLM])
def test_a_tensor_that_is_missing_is_named(model: Callable[..., object], tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ValueError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        model(str(folder), Phonemes(str(folder)), "float32", "cpu")
    assert "up_proj" in read_contents(str(folder)).problems[0]


def test_a_head_that_is_there_is_the_models_whatever_config_says(tmp_path: Path) -> None:
    """As in transformers, which ties tables only where the folder holds one, or twice the same."""
    folder = make_bundled_folder(tmp_path / "untied", tied=False)
    free = load_speaking(folder)
    ids = [torch.tensor([1, 8, 2, 3, 70, 71])]
    wanted = free.step(ids[0][None, -1:], free.prefill(ids, 20))
    tied = load_speaking(rewritten(folder, {}, tie_word_embeddings=True))
    assert torch.equal(tied.step(ids[0][None, -1:], tied.prefill(ids, 20)), wanted)
    assert torch.equal(tied.embeddings("output"), free.embeddings("output"))
    other = HfLM(str(folder), Phonemes(str(folder)), "float32", "cpu")
    theirs = other.step(ids[0][None, -1:], other.prefill(ids, 20))
    torch.testing.assert_close(theirs, wanted, rtol=0, atol=1e-4)


def test_the_fingerprint_covers_every_number_and_no_sharding(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path / "one")
    before = Checkpoint(folder).fingerprint
    weight = load_file(folder / "model.safetensors")[WEIGHT]
    weight[1, 2] += 0.5
    assert Checkpoint(rewritten(folder, {WEIGHT: weight})).fingerprint != before
    whole = make_bundled_folder(tmp_path / "two")
    assert Checkpoint(whole).fingerprint == before
    assert Checkpoint(sharded(whole)[0]).fingerprint == before


def test_digests_are_remembered_and_a_file_set_back_in_time_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, reads = tmp_path / "x", []
    monkeypatch.setattr(digest, "_WORTH_KEEPING", 4)
    monkeypatch.setattr(digest, "_SETTLED", 0)
    monkeypatch.setenv("PCG_CACHE", str(tmp_path / "cache"))
    whole = digest._of_bytes
    monkeypatch.setattr(digest, "_of_bytes", lambda place: reads.append(place) or whole(place))
    file.write_bytes(b"first")
    os.utime(file, (1e9, 1e9))
    first = digest.of_file(file)
    assert digest.of_file(file) == first
    digest._known.clear()  # another process
    assert digest.of_file(file) == first
    assert len(reads) == 1
    file.write_bytes(b"other")
    os.utime(file, (1e9, 1e9))
    assert digest.of_file(file) != first
    monkeypatch.setenv("PCG_CACHE", str(file / "no folder"))
    digest._known.clear()
    assert digest.of_file(file) != first  # nowhere to keep it


def test_links_that_lead_nowhere_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_bundled_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(tmp_path / "blob")
    (folder / "model.safetensors").symlink_to("gone")
    with pytest.raises(FileNotFoundError, match=r"model\.safetensors is a link to gone, which is not there"):
        Checkpoint(folder)
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "name").symlink_to("gone")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="owner/name is a link to gone, which is not there"):
        Checkpoint(resolve_folder("owner/name"))  # and no model of the hub


def test_a_cache_of_the_hub_that_cannot_be_written_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "/cache")

    monkeypatch.setattr("huggingface_hub.snapshot_download", fail)
    with pytest.raises(OSError, match=r"owner/name: the Hugging Face cache cannot be written .*: set HF_HOME"):
        hub.fetch("owner/name")
