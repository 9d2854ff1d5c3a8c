"""Passes of ``passes.c`` give torch's numbers, and the same ones bit for bit however tokens are fed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import torch

from pcg import compiled
from pcg.models import layout, linear, native
from pcg.models.chain import chain
from pcg.models.decoder import LlamaConfig
from pcg.models.eagle import EagleLM
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.models.tree import Tree
from pcg.sampling import Sampling
from pcg.training.students import EagleDraft
from pcg.training.teacher import Teacher
from tests.engines.test_speculators import with_own_rows
from tests.fakes import make_bundled_folder
from tests.models.test_llama import FORMS

built = pytest.mark.skipif(compiled.library() is None, reason="no C compiler here")
pairs = pytest.mark.skipif(not native.can_pass(32, torch.bfloat16), reason="this processor multiplies no bfloat16")
FLOAT16, FLOAT32, CPU = torch.float16, torch.float32, torch.device("cpu")


def load(folder: Path, patch: pytest.MonkeyPatch, chosen: str, dtype: str = "float32") -> LlamaLM:
    patch.setattr("pcg.models.llama.choose", lambda *_: chosen)
    return LlamaLM(str(folder), Phonemes(str(folder)), dtype, "cpu", "speech")


def both(tmp_path: Path, patch: pytest.MonkeyPatch, computed: str = "float32", **form: Any) -> tuple[LlamaLM, LlamaLM]:
    make_bundled_folder(tmp_path / "model", **form)
    return load(tmp_path / "model", patch, "native", computed), load(tmp_path / "model", patch, "plain", computed)


def of_random(model: LlamaLM, *shape: int) -> torch.Tensor:
    return torch.randint(0, model.llama.config.vocab, shape, generator=torch.Generator().manual_seed(1))


@built
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_they_equal_torch(form: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, plain = both(tmp_path, monkeypatch, **({"head_dim": 16} | form))
    assert (fast.layout, plain.layout) == ("native", "plain")
    prompts = [*of_random(fast, 2, 23)]
    prompts[1] = prompts[1][:9]  # rows of two lengths
    caches = [model.prefill(prompts, 64, reads=(0, 1, model.layers)) for model in (fast, plain)]
    for count in (1, 5, 13):
        ids = of_random(fast, 2, count)
        found, wanted = (model.step(ids, cache) for model, cache in zip((fast, plain), caches, strict=True))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
    for row, length in enumerate(caches[0].lengths):
        read, expected = (cache.hidden[row, :, :length] for cache in caches)
        torch.testing.assert_close(read, expected, rtol=1e-4, atol=1e-4)


@pairs
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_in_bfloat16_they_are_as_near_to_float32_as_torch(
    form: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, plain = both(tmp_path, monkeypatch, "bfloat16", **(form | {"head_dim": 32}))
    exact = load(tmp_path / "model", monkeypatch, "plain")
    ids, prompts = of_random(fast, 2, 5), [of_random(fast, 40), of_random(fast, 11)]
    caches = [model.prefill(prompts, 64, reads=(1, model.layers)) for model in (fast, plain, exact)]
    found, rough, wanted = (m.step(ids, c) for m, c in zip((fast, plain, exact), caches, strict=True))
    assert caches[0].states.dtype == caches[0].hidden.dtype == torch.bfloat16
    read, roughly, expected = (cache.hidden[:, :, :10].float() for cache in caches)
    for ours, torchs, right in ((found, rough, wanted), (read, roughly, expected)):
        assert (ours - right).square().mean() < 1.1 * (torchs - right).square().mean()


@built
@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pairs)])
def test_a_pass_of_many_is_passes_of_one_to_the_last_bit(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, _ = both(tmp_path, monkeypatch, dtype, head_dim=32)
    ids, prompt = of_random(fast, 1, 17), [of_random(fast, 30)]
    at_once = fast.step(ids, fast.prefill(prompt, 64))
    cache = fast.prefill([prompt[0][:1]], 64)
    for token in prompt[0][:-1]:  # also what was there before
        fast.step(token.view(1, 1), cache)
    one_by_one = torch.cat([fast.step(ids[:, i : i + 1], cache) for i in range(17)], 1)
    assert torch.equal(at_once, one_by_one)
    assert torch.equal(fast.step(ids[:, :3].expand(4, 3), fast.prefill(prompt * 4, 64))[2], at_once[0, :3])


@built
def test_a_tree_sees_its_own_branches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, plain = both(tmp_path, monkeypatch, head_dim=16)
    sees = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 0, 1, 1]], dtype=torch.bool)
    tree, ids, prompt = Tree(torch.tensor([0, 1, 1, 2]), sees), of_random(fast, 2, 4), list(of_random(fast, 2, 12))
    found, wanted = (model.step_tree(ids, model.prefill(prompt, 32), tree) for model in (fast, plain))
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@built
def test_a_draft_that_reads_states(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, plain = both(tmp_path, monkeypatch, head_dim=16)
    teacher, maker = Teacher(str(fast.folder), fast.text.speech_ids), EagleDraft([0, 1, 2])
    maker.save(maker.make(teacher), tmp_path / "eagle", teacher)
    found = []
    for model in (fast, plain):
        monkeypatch.setattr("pcg.models.eagle.choose", lambda *_, model=model: model.layout)
        draft, prompt = EagleLM(str(tmp_path / "eagle"), model, "float32", "cpu"), [of_random(fast, 12)]
        assert draft.layout == model.layout
        cache = model.prefill(prompt, 64, reads=draft.reads)
        own = draft.prefill(prompt, 64, target=cache)
        model.step(of_random(fast, 1, 4), cache)
        found.append([draft.step(of_random(fast, 1, 3), own), *(draft.step(of_random(fast, 1, 1), own) for _ in "ab")])
    for each, wanted in zip(*found, strict=True):
        torch.testing.assert_close(each, wanted, rtol=1e-4, atol=1e-4)


@built
@pytest.mark.parametrize("rows", [None, 40], ids=["the target's rows", "rows of its own"])
@pytest.mark.parametrize("computed", ["float32", pytest.param("bfloat16", marks=pairs)])
@pytest.mark.parametrize(("budget", "chosen"), [(None, "native"), (None, "int8"), (16, "native")])
def test_a_whole_block_is_what_steps_give(
    budget: int | None, chosen: str, computed: str, rows: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast, _ = both(tmp_path, monkeypatch, computed, head_dim=32)
    teacher, maker = Teacher(str(fast.folder), fast.text.speech_ids), EagleDraft([0, 1, 2])
    maker.save(maker.make(teacher), tmp_path / "eagle", teacher)
    if rows:
        with_own_rows(tmp_path / "eagle", fast, rows)
    monkeypatch.setattr("pcg.models.eagle.choose", lambda *_: chosen)
    draft = EagleLM(str(tmp_path / "eagle"), fast, computed, "cpu", budget)
    prompts = [of_random(fast, 12), of_random(fast, 30)]
    assert draft._drafting is not None
    latest, uniform = of_random(fast, 2, 3), torch.rand(2, 4, dtype=torch.float64)
    target = fast.prefill(prompts, 64, reads=draft.reads)
    fast.step(latest[:, :2], target)  # the last one it has not read yet
    found = {}
    for sampling in (Sampling(0.8), Sampling(0.8, top_k=10)):
        for way in ("whole", "steps"):
            cache = draft.prefill(prompts, 64, target=target)
            step = lambda ids, cache=cache: draft.step(ids, cache)[:, -1]  # noqa: E731
            whole = lambda *given, cache=cache: draft.propose(given[0], cache, *given[1:])  # noqa: E731
            given = latest, uniform, sampling, None
            tokens, probs, _ = whole(*given) if way == "whole" else chain(step, draft.token_ids, *given)
            found[way] = tokens, probs, cache.own, cache.lengths
        assert torch.equal(found["whole"][0], found["steps"][0])
        assert torch.equal(found["whole"][3], found["steps"][3])
        for one, other in zip(found["whole"][1:3], found["steps"][1:3], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def in_integers(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """What 8-bit products of ``weight`` and ``x`` are; weights in float32, where few bits make many of them ties."""
    scales, sizes = weight.float().abs().amax(1) / 127, x.double().abs().amax(-1, keepdim=True) / 127
    whole = (x / sizes).round() @ (weight.float() / scales.unsqueeze(1)).round().double().T
    return whole * scales * sizes


@built
@pytest.mark.parametrize("stored", [FLOAT16, torch.bfloat16, FLOAT32])
@pytest.mark.parametrize("outputs", [7, 4 * 64 + 3])
def test_products_in_8_bits(stored: torch.dtype, outputs: int) -> None:
    draw = torch.Generator().manual_seed(outputs)
    weight, bias = torch.randn(outputs, 96, generator=draw).to(stored), torch.randn(outputs, generator=draw)
    x = torch.randn(13, 96, generator=draw) * torch.arange(1, 14).unsqueeze(1)
    found = native.Product(weight, bias, int8=True)(x)
    torch.testing.assert_close(found, (in_integers(weight, x) + bias).float(), rtol=1e-3, atol=1e-2)
    rough = found - bias - (x.double() @ weight.double().T).float()
    assert rough.norm() < 0.02 * (found - bias).norm()
    assert torch.equal(found, torch.cat([native.Product(weight, bias, int8=True)(row) for row in x.split(1)]))
    assert torch.equal(found, native.Product(weight, bias).as_int8()(x))


@built
def test_8_bits_are_for_those_that_ask_for_them(tmp_path: Path) -> None:
    make_bundled_folder(tmp_path / "model", head_dim=64)
    config = LlamaConfig.read(json.loads((tmp_path / "model" / "config.json").read_text()), tmp_path)
    assert layout.choose(config, FLOAT16, FLOAT32, CPU, int8=True) == "int8"
    assert layout.choose(config, FLOAT16, FLOAT32, torch.device("meta"), int8=True) == "plain"
    assert not native.Product(torch.zeros(5, 8), None, int8=True)(torch.ones(2, 8)).any()
    assert not native.Product(torch.ones(5, 8), None, int8=True)(torch.zeros(2, 8)).any()
    for bad in (torch.nan, torch.inf):  # is not hidden
        x = torch.ones(2, 24)
        x[1, 17] = bad
        assert native.Product(torch.ones(5, 24), None, int8=True)(x).isfinite().all(1).tolist() == [True, False]
    with pytest.raises(ValueError, match="6 inputs: 8-bit products need a multiple of 4; set draft"):
        native.Product(torch.ones(5, 6), None, int8=True)


@built
def test_a_full_cache_is_an_error_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fast, _ = both(tmp_path, monkeypatch, head_dim=16)
    cache = fast.prefill([of_random(fast, 9)], 10)
    with pytest.raises(ValueError, match="cache of 10 positions is full: 11 asked for"):
        fast.step(of_random(fast, 1, 3), cache)


def test_without_a_compiler_torch_multiplies(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    compiled.library.cache_clear()
    try:
        with caplog.at_level(logging.INFO):
            assert "native" not in linear.layouts(64, FLOAT16, FLOAT32, CPU, 1)
        assert "no C compiler that builds compiled" in caplog.text
    finally:
        compiled.library.cache_clear()


@built
def test_what_cannot_be_built_is_told_with_the_compilers_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "passes.c").write_text("not C")
    monkeypatch.setattr(compiled, "FOLDER", tmp_path)
    compiled.library.cache_clear()
    try:
        with caplog.at_level(logging.INFO):
            assert compiled.library() is None
        assert "error" in caplog.text
    finally:
        compiled.library.cache_clear()


def test_several_threads_other_dtypes_and_narrow_heads_are_torchs() -> None:
    assert "native" not in linear.layouts(64, FLOAT16, FLOAT32, CPU, 2)
    assert "native" not in linear.layouts(64, FLOAT16, FLOAT16, CPU, 1)
    assert "native" not in linear.layouts(4, FLOAT16, FLOAT32, CPU, 1)
    assert linear.layouts(64, FLOAT16, torch.bfloat16, torch.device("meta"), 1) == ["plain"]


def test_the_choice_is_measured_once_kept_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PCG_CACHE", str(tmp_path))
    monkeypatch.setattr(layout, "layouts", lambda *_: ["plain", "packed"])
    make_bundled_folder(tmp_path / "model")
    config = LlamaConfig.read(json.loads((tmp_path / "model" / "config.json").read_text()), tmp_path)
    times = {"plain": [3.0, 4.0], "packed": [1.0, 13.0]}  # quick alone, slow to verify
    monkeypatch.setattr(layout, "measure", lambda *_: times)
    with caplog.at_level(logging.INFO):
        assert layout.choose(config, FLOAT16, FLOAT32, CPU) == "plain"
    assert "laid out as plain; ms a layer for one token and for five: plain 3.00 and 4.00, packed 1.00" in caplog.text
    monkeypatch.setattr(layout, "measure", lambda *_: pytest.fail("measured again"))
    assert layout.choose(config, FLOAT16, FLOAT32, CPU) == "plain"


def test_every_layout_that_is_offered_can_be_measured(tmp_path: Path) -> None:
    make_bundled_folder(tmp_path / "model", head_dim=16, kind="Qwen3")
    config = LlamaConfig.read(json.loads((tmp_path / "model" / "config.json").read_text()), tmp_path)
    for stored, dtype in ((FLOAT16, FLOAT32), (torch.bfloat16, FLOAT32), (torch.bfloat16, torch.bfloat16)):
        offered = linear.layouts(16, stored, dtype, CPU, 1)
        found = layout.measure(config, stored, dtype, offered)
        assert list(found) == offered
        assert all(time > 0 for times in found.values() for time in times)
