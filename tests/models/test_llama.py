"""Our decoder gives the logits of transformers' Llama, Qwen2 and Qwen3, however it is fed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from pcg.models.hf import HfLM
from pcg.models.linear import can_pack, can_reorder, linear
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from tests.fakes import make_bundled_folder

LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
FORMS = {
    "tied, grouped heads, float16": {},
    "untied, full heads, float32": {"tied": False, "kv_heads": 4, "dtype": torch.float32},
    "one key head, wide heads, bfloat16": {"kv_heads": 1, "head_dim": 32, "dtype": torch.bfloat16},
    "llama3 rope": {"rope_parameters": LLAMA3},
    "qwen2": {"kind": "Qwen2"},
    "qwen2, untied, full heads, float32": {"kind": "Qwen2", "tied": False, "kv_heads": 4, "dtype": torch.float32},
    "qwen3, wide heads, untied": {"kind": "Qwen3", "head_dim": 32, "tied": False},
    "qwen3, one key head, float32": {"kind": "Qwen3", "head_dim": 16, "kv_heads": 1, "dtype": torch.float32},
}
SHORT = {"rope_theta": 10_000.0, "original_max_position_embeddings": 64}
ROPES = {
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 4.0},
    "yarn, all its settings": {
        "factor": 4.0, "beta_fast": 20.0, "beta_slow": 2.0, "mscale": 0.7, "mscale_all_dim": 0.5, "truncate": False,
    },
    "yarn, attention factor": {"factor": 4.0, "attention_factor": 1.2},
    "longrope": {"short_factor": [1.0 + i / 8 for i in range(8)], "long_factor": [2.0] * 8},
    "proportional": {"partial_rotary_factor": 0.5, "factor": 2.0},
}  # fmt: skip


def load(folder: Path, dtype: str = "float32", head: str = "speech") -> LlamaLM:
    return LlamaLM(str(folder), Phonemes(str(folder)), dtype, "cpu", head)


@torch.no_grad()
def oracle(folder: Path, ids: Tensor, model: LlamaLM) -> Tensor:
    """transformers' logits over the speech vocabulary after every token of ``ids``."""
    reference = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return reference(ids).logits[..., model.text.speech_ids]


def some_ids(rows: int, length: int) -> Tensor:
    return torch.randint(5, 150, (rows, length), generator=torch.Generator().manual_seed(1))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("rows", [1, 4])
def test_prefill_and_cached_steps_equal_transformers(form: dict, rows: int, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path, **form)
    model, ids = load(folder), some_ids(rows, 90)
    expected = oracle(folder, ids, model)
    cache = model.prefill([row[:71] for row in ids], capacity=90)
    at = 70
    for new in (1, 5, 1, 3, 10):
        assert_close(model.step(ids[:, at : at + new], cache), expected[:, at : at + new])
        at += new


@pytest.mark.parametrize("rope", ROPES)
def test_every_rope_equals_transformers(rope: str, tmp_path: Path) -> None:
    length = 64 if rope == "longrope" else 100  # others beyond the original positions
    settings = {"rope_type": rope.split(",")[0], **SHORT, **ROPES[rope]}
    folder = make_bundled_folder(tmp_path, rope_parameters=settings, max_position_embeddings=256)
    model, ids = load(folder), some_ids(2, length)
    expected = oracle(folder, ids, model)
    cache = model.prefill([ids[0, : length - 9], ids[1, :4]], capacity=length)
    assert_close(model.step(ids[:1, length - 10 : length].expand(2, -1), cache)[0], expected[0, length - 10 :])


def test_longrope_ends_where_it_would_turn_otherwise(tmp_path: Path) -> None:
    settings = {"rope_type": "longrope", **SHORT, **ROPES["longrope"]}
    model = load(make_bundled_folder(tmp_path, rope_parameters=settings, max_position_embeddings=256))
    with pytest.raises(ValueError, match="65 positions asked for, but the model has 64"):
        model.prefill([some_ids(1, 9)[0]], capacity=65)


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_rows_of_different_lengths_equal_transformers(form: dict, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path, **form)
    model, ids = load(folder), some_ids(4, 60)
    expected = oracle(folder, ids, model)
    starts = torch.tensor([30, 2, 17, 29])
    cache = model.prefill([row[: start + 1] for row, start in zip(ids, starts, strict=True)], capacity=60)
    assert cache.lengths.tolist() == starts.tolist()
    for new in (1, 5, 2):
        places = starts[:, None] + torch.arange(new)
        assert_close(model.step(ids.gather(1, places), cache), expected[torch.arange(4)[:, None], places])
        starts = starts + new


def test_rolling_back_equals_never_having_been_there(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    model, ids = load(folder), some_ids(3, 40)
    expected = oracle(folder, ids, model)
    cache = model.prefill(list(ids[:, :11]), capacity=40)
    model.step(some_ids(3, 8).flip(0), cache)  # other tokens
    cache.lengths = cache.lengths - torch.tensor([8, 8, 8])
    assert_close(model.step(ids[:, 10:14], cache), expected[:, 10:14])
    cache.lengths = cache.lengths - torch.tensor([0, 3, 1])
    again = torch.stack([ids[0, 14:16], ids[1, 11:13], ids[2, 13:15]])
    logits = model.step(again, cache)
    for row, start in enumerate([14, 11, 13]):
        assert_close(logits[row], expected[row, start : start + 2])


def test_kept_rows_go_on_as_before(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    model, ids = load(folder), some_ids(4, 30)
    expected = oracle(folder, ids, model)
    cache = model.prefill([ids[0, :9], ids[1, :5], ids[2, :7], ids[3, :9]], capacity=30)
    cache.keep(torch.tensor([3, 1]))
    logits = model.step(torch.stack([ids[3, 8:11], ids[1, 4:7]]), cache)
    assert_close(logits[0], expected[3, 8:11])
    assert_close(logits[1], expected[1, 4:7])


@pytest.mark.parametrize("tied", [True, False])
def test_full_head_equals_speech_head(tied: bool, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path, tied=tied)
    ids = some_ids(2, 12)
    logits = []
    for head in ("speech", "full"):
        model = load(folder, head=head)
        logits.append(model.step(ids[:, 7:], model.prefill(list(ids[:, :8]), capacity=12)))
    torch.testing.assert_close(*logits, rtol=0, atol=1e-5)
    assert logits[0].shape == (2, 5, 97)


@pytest.mark.skipif(not can_reorder(), reason="this processor multiplies no bfloat16")
def test_products_of_weights_laid_out_once_are_those_of_bfloat16() -> None:
    made = torch.Generator().manual_seed(0)
    weight, bias, x = (torch.randn(*shape, generator=made) for shape in ((48, 33), (48,), (2, 5, 33)))
    given = linear(weight, torch.bfloat16, torch.device("cpu"), bias, "reordered")(x.bfloat16())
    torch.testing.assert_close(given, F.linear(x.bfloat16(), weight.bfloat16(), bias.bfloat16()))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_close(dtype: str, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    model, ids = load(folder, dtype=dtype), some_ids(2, 20)
    expected = oracle(folder, ids, model)
    logits = model.step(ids[:, 15:], model.prefill(list(ids[:, :16]), capacity=20))
    assert logits.dtype == torch.float32
    assert (logits - expected[:, 15:]).abs().mean() < 0.02 * expected.std()


def test_sharded_folder_equals_single_file(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path / "single", tied=False)
    sharded = make_bundled_folder(tmp_path / "sharded", tied=False)
    (sharded / "model.safetensors").unlink()
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.float16).save_pretrained(sharded, max_shard_size="40KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2
    ids = some_ids(1, 9)
    logits = [m.step(ids[:, 5:], m.prefill([ids[0, :6]], capacity=9)) for m in (load(folder), load(sharded))]
    assert torch.equal(*logits)


@pytest.mark.parametrize("tied", [True, False])
def test_embeddings_are_rows_of_the_tables(tied: bool, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path, tied=tied)
    model = load(folder)
    reference = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    rows = model.text.speech_ids
    assert torch.equal(model.embeddings("input"), reference.get_input_embeddings().weight[rows])
    assert torch.equal(model.embeddings("output"), reference.get_output_embeddings().weight[rows])
    with pytest.raises(ValueError, match="input or output"):
        model.embeddings("codec")


def test_token_ids_place_the_end_marker_last(tmp_path: Path) -> None:
    model = load(make_bundled_folder(tmp_path))
    assert (model.vocab_size, model.end) == (97, 96)
    offset = int(model.token_ids(torch.tensor(0)))
    assert model.token_ids(torch.tensor([[0, 1], [95, model.end]])).tolist() == [[offset, offset + 1], [offset + 95, 4]]


def test_a_full_cache_and_a_short_model_are_named(tmp_path: Path) -> None:
    model = load(make_bundled_folder(tmp_path, max_position_embeddings=32))
    ids = some_ids(1, 12)
    cache = model.prefill([ids[0, :6]], capacity=8)
    with pytest.raises(ValueError, match="cache of 8 positions is full: 9"):
        model.step(ids[:, 6:10], cache)
    with pytest.raises(ValueError, match="33 positions asked for, but the model has 32"):
        model.prefill([ids[0]], capacity=33)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attention_bias": True}, "attention_bias=True"),
        ({"hidden_act": "gelu"}, "hidden_act='gelu'"),
        ({"model_type": "mistral"}, "model_type='mistral'; this decoder reads only llama, qwen2, qwen3"),
        ({"rope_parameters": {"rope_type": "spiral"}}, "rope_type='spiral' in config.json: this decoder reads default"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor=0.5"),
        ({"rope_parameters": {"rope_type": "linear"}}, r"'rope_type'='linear': \{'factor'\}"),
    ],
)
def test_what_is_not_a_plain_llama_is_refused(change: dict, message: str, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    with pytest.raises(ValueError, match=message):
        load(folder)


@pytest.mark.skipif(not can_pack(), reason="torch is built without FBGEMM")
@pytest.mark.parametrize(("inputs", "outputs"), [(29, 37), (256, 1408), (64, 97)])
def test_packed_half_weights_multiply_as_float32(inputs: int, outputs: int) -> None:
    weight = torch.randn(outputs, inputs).half()
    x = torch.randn(2, 3, 2 * inputs)[..., ::2]
    product = linear(weight, torch.float32, torch.device("cpu"), layout="packed")(x)
    torch.testing.assert_close(product.double(), x.double() @ weight.double().T, rtol=1e-4, atol=1e-4)


def test_a_prompt_that_is_too_long_is_told_how_long_it_may_be(tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path, max_position_embeddings=32)
    ids = some_ids(1, 12)[0]
    for model in (load(folder), HfLM(str(folder), Phonemes(str(folder)), "float32", "cpu")):
        for capacity, advice in (
            (36, "text and voice of the prompt are 12 tokens and may be 8, or decoding.max_tokens may be 4 less"),
            (60, "decoding.max_tokens may be 28 less"),
        ):
            message = f"{capacity} positions asked for, but the model has 32: {advice}"
            with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
                model.prefill([ids], capacity)
        with pytest.raises(ValueError, match=r"32: text and voice of the prompt are 40 tokens and may be 22$"):
            model.prefill([ids.repeat(4)[:40]], 50)
