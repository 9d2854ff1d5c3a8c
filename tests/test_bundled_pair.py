"""What holds of the weights that ship: lossless rules are lossless on them, and transformers reads them alike."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcg.acceptance.block import Block
from pcg.acceptance.ensemble import Ensemble
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.codecs.bundled import BundledCodec
from pcg.data.bundled import Bundled
from pcg.decoding.autoregressive import decode
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.groups.identity import Identity
from pcg.interfaces import Rule
from pcg.models.checkpoint import resolve_folder
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.sampling import Randomness, Sampling, as_keys

CPU = torch.device("cpu")


def model(name: str) -> LlamaLM:
    path = f"bundled:{name}"
    return LlamaLM(path, Phonemes(path), "float32", CPU, "speech")


@pytest.fixture(scope="module")
def pair() -> tuple[LlamaLM, LlamaLM]:
    return model("target"), model("draft")


@pytest.fixture(scope="module")
def prompts() -> list[Prompt]:
    codec = BundledCodec("bundled:codec")
    return [Prompt(each, codec.encode([each.load_prompt()])[0]) for each in Bundled(limit=3)]


def keys(prompts: list[Prompt]) -> Randomness:
    return Randomness(0, as_keys([prompt.utterance.id for prompt in prompts], CPU))


LOSSLESS = {
    "exact": Exact(),
    "block": Block(),
    "ensemble": Ensemble(1.0),
    "pcg": PCG(Identity().build(torch.zeros(4097, 1), None)),
}


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("rule", list(LOSSLESS.values()), ids=list(LOSSLESS))
def test_lossless_rules_are_greedy_decoding_at_temperature_0(
    rule: Rule, pair: tuple[LlamaLM, LlamaLM], prompts: list[Prompt]
) -> None:
    greedy = {"sampling": Sampling(temperature=0.0), "max_tokens": 60, "randomness": keys(prompts)}
    plain = decode(pair[0], Batch(prompts, **greedy))
    said = speculative_decode(*pair, rule, Batch(prompts, **greedy), gamma=4)
    assert [each.tokens.tolist() for each in said] == [each.tokens.tolist() for each in plain]


@pytest.mark.usefixtures("types_unchecked")
def test_rows_are_alike_in_any_batch_and_order(pair: tuple[LlamaLM, LlamaLM], prompts: list[Prompt]) -> None:
    def say(chosen: list[Prompt]) -> dict[str, list[int]]:
        said = speculative_decode(*pair, Exact(), Batch(chosen, Sampling(temperature=0.8), 40, keys(chosen)), gamma=3)
        return {prompt.utterance.id: each.tokens.tolist() for prompt, each in zip(chosen, said, strict=True)}

    together = say(prompts)
    assert say(prompts[::-1]) == together
    assert {name: tokens for prompt in prompts for name, tokens in say([prompt]).items()} == together


@pytest.mark.parametrize("name", ["target", "draft"])
def test_transformers_gives_the_same_logits(name: str, prompts: list[Prompt]) -> None:
    from transformers import LlamaForCausalLM

    ours = model(name)
    ids = ours.prompt(prompts[0].utterance, prompts[0].speech).unsqueeze(0)
    with torch.inference_mode():
        theirs = LlamaForCausalLM.from_pretrained(resolve_folder(f"bundled:{name}"), dtype=torch.float32)(ids).logits
        got = ours.step(ids, ours.prefill([ids[0, :1]], ids.shape[1] + 1))
    speech = ours.token_ids(torch.arange(ours.vocab_size))
    torch.testing.assert_close(got, theirs[..., speech], atol=1e-3, rtol=1e-3)


def test_weights_are_safetensors_and_small() -> None:
    folder = resolve_folder("bundled:target").parent
    files = [file for file in folder.rglob("*") if file.is_file()]
    assert {file.suffix for file in files} <= {".json", ".safetensors", ".md"}
    assert sum(Path(file).stat().st_size for file in files) < 60e6
