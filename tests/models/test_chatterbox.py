"""Chatterbox's T3 on folders of its files' and tensors' names, against transformers' GPT-2 fed as theirs is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, GPT2Config, GPT2Model

from pcg.decoding.pair import check_compatible
from pcg.models.chatterbox import ChatterboxLM, cleaned, footprint
from pcg.types import Utterance
from tests.shapes import make_chatterbox, make_chatterbox_voice

TURBO = "t3_turbo_v1.safetensors"
SAID = Utterance("a", "good morning:  to you")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_chatterbox(tmp_path_factory.mktemp("turbo"), TURBO)


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_chatterbox_voice(tmp_path_factory.mktemp("voice") / "voice.safetensors"))


def load(folder: Path, voice: str | None, weights: str = TURBO) -> ChatterboxLM:
    return ChatterboxLM(str(folder), weights, voice, "float32", "cpu")


def expected(folder: Path, voice: str, said: torch.Tensor) -> torch.Tensor:
    """Logits at the token that begins speech and at each of ``said``, all inputs given as embeddings."""
    t3, conditions = load_file(folder / TURBO), load_file(voice)
    body = GPT2Model(GPT2Config(vocab_size=8, n_embd=64, n_layer=2, n_head=1, n_positions=512)).eval()
    body.load_state_dict({name[5:]: tensor for name, tensor in t3.items() if name.startswith("tfmr.")})
    text = AutoTokenizer.from_pretrained(folder)("Good morning, to you.", add_special_tokens=False).input_ids
    speech = torch.cat([torch.tensor([6561]), said])
    speaker = conditions["speaker_emb"] @ t3["cond_enc.spkr_enc.weight"].T + t3["cond_enc.spkr_enc.bias"]
    inputs = torch.cat([
        speaker, t3["speech_emb.weight"][conditions["cond_prompt_speech_tokens"][0]],
        t3["text_emb.weight"][text], t3["speech_emb.weight"][speech],
    ])  # fmt: skip
    with torch.no_grad():
        hidden = body(inputs_embeds=inputs[None]).last_hidden_state[0, -len(speech) :]
    logits = hidden @ t3["speech_head.weight"].T + t3["speech_head.bias"]
    return torch.cat([logits[:, :6561], logits[:, 6562:]], 1)  # what begins speech is never said


def test_logits_are_those_of_gpt2_fed_with_voice_text_and_speech(folder: Path, voice: str) -> None:
    model, said = load(folder, voice), torch.tensor([5, 6560, 17, 0])
    prompt = model.prompt(SAID, None)
    cache = model.prefill([prompt], capacity=100)
    steps = torch.cat([prompt[-1:], model.token_ids(said)])
    logits = torch.cat([model.step(steps[None, :2], cache), model.step(steps[None, 2:], cache)], 1)[0]
    torch.testing.assert_close(logits, expected(folder, voice, said), rtol=0, atol=1e-4)
    assert (model.vocab_size, model.end) == (6562, 6561)


def test_turbo_and_nano_share_tokens(folder: Path, voice: str, tmp_path: Path) -> None:
    nano = load(make_chatterbox(tmp_path, "t3_nano_v1.safetensors", layers=1), voice, "t3_nano_v1.safetensors")
    check_compatible(nano, load(folder, voice))
    assert nano.fingerprint == load(tmp_path, voice, "t3_nano_v1.safetensors").fingerprint


@pytest.mark.parametrize(
    ("text", "written"),
    [("so it is", "So it is."), ("What\u2019s that?", "What's that?"), ("Wait\u2026 no \u2014 yes", "Wait,  no - yes."),
     ("One , two:", "One, two,")],
)  # fmt: skip
def test_texts_are_cleaned(text: str, written: str) -> None:
    assert cleaned(text) == written


def test_the_plan_knows_the_published_shapes_and_reads_a_header(folder: Path) -> None:
    size = footprint("ResembleAI/chatterbox-turbo", TURBO, "float16")
    assert size.published
    assert 300e6 < size.multiplied < 320e6
    here = footprint(str(folder), TURBO, "float32")
    assert not here.published
    assert here.cache == 4 * 2 * 2 * 64
    with pytest.raises(FileNotFoundError, match="shapes are known only of"):
        footprint(str(folder), "t3_other.safetensors", "float32")


def test_what_is_wrong_is_named(folder: Path, voice: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has a voice prompt, but Chatterbox speaks in the voice of"):
        load(folder, voice).prompt(SAID, torch.tensor([1]))
    with pytest.raises(ValueError, match="nothing to say"):
        load(folder, voice).prompt(Utterance("a", "..."), None)
    with pytest.raises(ValueError, match=r"target\.voice is required"):
        load(folder, None)
    with pytest.raises(FileNotFoundError, match=r"t3_nano_v1\.safetensors is missing"):
        load(folder, voice, "t3_nano_v1.safetensors")
    lacking = load_file(folder / TURBO)
    del lacking["speech_head.bias"]
    save_file(lacking, tmp_path / TURBO)
    with pytest.raises(ValueError, match=r"lacks speech_head\.bias, so it is not a T3 of Chatterbox Turbo's kind"):
        load(tmp_path, voice)
    known = load_file(voice)
    for name, change, message in (
        ("speaker_emb", torch.zeros(1, 192), "speaker_emb has 192 numbers, but this model needs 256"),
        ("cond_prompt_speech_tokens", torch.tensor([[7000]]), "has tokens beyond 0 to 6560"),
    ):
        save_file({**known, name: change}, tmp_path / "wrong.safetensors")
        with pytest.raises(ValueError, match=message):
            load(folder, str(tmp_path / "wrong.safetensors"))
    save_file({"speaker_emb": known["speaker_emb"]}, tmp_path / "wrong.safetensors")
    with pytest.raises(ValueError, match="lacks cond_prompt_speech_tokens"):
        load(folder, str(tmp_path / "wrong.safetensors"))
