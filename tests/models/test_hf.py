"""transformers' models through our protocol give what our own Llama gives."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from pcg.models.hf import HfLM, cache_argument
from pcg.models.llama import LlamaLM
from pcg.models.llasa import Llasa
from pcg.types import Utterance
from tests.shapes import make_llasa, save_llasa_tokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llasa(tmp_path_factory.mktemp("llasa"), tied=False)


@pytest.fixture(scope="module")
def pair(folder: Path) -> tuple[LlamaLM, HfLM]:
    text = Llasa(str(folder))
    return LlamaLM(str(folder), text, "float32", "cpu", "speech"), HfLM(str(folder), text, "float32", "cpu")


def speech(*rows: list[int]) -> torch.Tensor:
    return torch.tensor(rows)


def test_equals_our_llama_wherever_rows_roll_back(pair: tuple[LlamaLM, HfLM]) -> None:
    texts = ("One.", "A longer one than that.", "Two.")
    prompts = [[m.prompt(Utterance("u", text), torch.tensor([i, 2])) for i, text in enumerate(texts)] for m in pair]
    caches = [m.prefill(p, 400) for m, p in zip(pair, prompts, strict=True)]

    def both(tokens: torch.Tensor) -> None:
        ours, theirs = (m.step(m.token_ids(tokens), cache) for m, cache in zip(pair, caches, strict=True))
        torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-4)
        assert torch.equal(caches[0].lengths, caches[1].lengths)

    first = torch.stack([p[-1:] for p in prompts[0]])
    torch.testing.assert_close(*(m.step(first, c) for m, c in zip(pair, caches, strict=True)), rtol=0, atol=1e-4)
    both(speech([1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]))
    for cache in caches:
        cache.lengths = cache.lengths - torch.tensor([0, 3, 1])
    both(speech([13], [14], [15]))
    for cache in caches:
        cache.lengths = cache.lengths - torch.tensor([2, 1, 2])
    both(speech([20, 21], [22, 23], [24, 25]))
    for cache in caches:
        cache.keep(torch.tensor([2, 0]))
        cache.lengths = cache.lengths - 1
    both(speech([30, 31], [32, 33]))
    for source in ("input", "output"):
        assert torch.equal(pair[1].embeddings(source), pair[0].embeddings(source))


def test_one_row_never_grows_by_what_was_rolled_back(pair: tuple[LlamaLM, HfLM]) -> None:
    model = pair[1]
    prompt = model.prompt(Utterance("u", "One."), None)
    cache = model.prefill([prompt], 400)
    for _ in range(3):
        model.step(model.token_ids(speech([1, 2, 3, 4])), cache)
        cache.lengths = cache.lengths - 4
    model.step(prompt[None, -1:], cache)
    assert cache.valid.shape[1] == len(prompt)


def test_the_cache_goes_by_the_name_that_a_model_gives_it() -> None:
    def before_5_24(input_ids: object, past_key_values: object = None, **rest: object) -> None: ...
    def since(input_ids: object, cache: object = None, **rest: object) -> None: ...
    def without(input_ids: object, labels: object) -> None: ...

    assert cache_argument(before_5_24) == "past_key_values"
    assert cache_argument(since) == "cache"
    with pytest.raises(ValueError, match=r"no cache of keys and values; its arguments are input_ids, labels"):
        cache_argument(without)


def test_what_cannot_be_done_is_refused(folder: Path, tmp_path: Path) -> None:
    save_llasa_tokenizer(tmp_path / "more", 500, 300)
    with pytest.raises(ValueError, match="is beyond its 372 rows"):
        HfLM(str(folder), Llasa(str(tmp_path / "more")), "float32", "cpu")
    with pytest.raises(ValueError, match="input or output"):
        HfLM(str(folder), Llasa(str(folder)), "float32", "cpu").embeddings("codec")


def test_gpt2_with_its_learned_positions(tmp_path: Path) -> None:
    """What Chatterbox Turbo and Nano are."""
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 1, "eos_token_id": 2}
    torch.manual_seed(0)
    reference = GPT2LMHeadModel(GPT2Config(vocab_size=150, initializer_range=0.2, **shape)).eval()
    reference.save_pretrained(tmp_path)
    text = SimpleNamespace(speech_ids=torch.arange(50, 150), prompt=lambda utterance, prompt_tokens: None)
    model = HfLM(str(tmp_path), text, "float32", "cpu")
    ids, rows = torch.randint(0, 150, (4, 60)), torch.arange(4).unsqueeze(1)
    with torch.no_grad():
        expected = reference(ids).logits[..., 50:]
    starts = torch.tensor([30, 2, 17, 29])
    cache = model.prefill([row[: start + 1] for row, start in zip(ids, starts, strict=True)], 60)
    for new, back in ((1, [0, 0, 0, 0]), (5, [2, 0, 1, 3]), (3, [0, 0, 0, 0])):
        places = starts.unsqueeze(1) + torch.arange(new)
        torch.testing.assert_close(model.step(ids.gather(1, places), cache), expected[rows, places], rtol=0, atol=1e-4)
        cache.lengths = cache.lengths - torch.tensor(back)
        starts = starts + new - torch.tensor(back)
