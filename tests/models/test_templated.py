"""The text side of NeuTTS and CosyVoice, from their YAMLs, on tiny folders that transformers saved."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from pcg.command.cli import CONF
from pcg.decoding.pair import check_compatible
from pcg.models import templated
from pcg.models.hf import HfLM
from pcg.models.llama import LlamaLM
from pcg.models.templated import Templated
from pcg.types import Utterance
from tests.shapes import COSYVOICE, NEUTTS, make_cosyvoice3, make_orpheus, make_spark, make_templated

SAID = Utterance("a", "Go on.", prompt_text="Who said it?")
CODES = torch.tensor([5, 23, 0])


def side_of(choice: str, folder: Path) -> Templated:
    """As the YAML says, at another path."""
    text = yaml.safe_load((Path(CONF) / f"text/{choice}.yaml").read_text(encoding="utf-8"))
    return Templated(**{key: value for key, value in text.items() if key != "_target_"} | {"path": str(folder)})


def load(choice: str, folder: Path) -> LlamaLM:
    return LlamaLM(str(folder), side_of(choice, folder), "float32", "cpu", "speech")


@pytest.fixture(autouse=True)
def _no_espeak(monkeypatch: pytest.MonkeyPatch) -> None:
    """What eSpeak NG would say is not the point, and it is not installed everywhere."""
    monkeypatch.setattr(templated, "phonemizer_of", lambda language: lambda text: f"[{language}]{text.lower()}")


@pytest.fixture(scope="module")
def air(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_templated(tmp_path_factory.mktemp("air"), "Qwen2", NEUTTS, "<|speech_{}|>")


@pytest.fixture(scope="module")
def cosyvoice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_templated(tmp_path_factory.mktemp("cosyvoice"), "Qwen2", COSYVOICE, "<|s_{}|>")


def test_the_prompt_of_neutts_has_text_phonemes_and_voice_in_the_templates_places(air: Path) -> None:
    ids = side_of("neutts", air).prompt(SAID, CODES)
    assert AutoTokenizer.from_pretrained(air).decode(ids) == (
        "user: Convert the text to speech:<|TEXT_PROMPT_START|>[en-us]who said it? [en-us]go on.<|TEXT_PROMPT_END|>\n"
        "assistant:<|SPEECH_GENERATION_START|><|speech_5|><|speech_23|><|speech_0|>"
    )


def test_the_prompt_of_neutts_nano_begins_as_its_tokenizer_begins_a_text(tmp_path: Path) -> None:
    """Its authors encode ``user: ...`` with what the tokenizer adds by itself: nothing of Qwen's (Air), a token of
    Llama 3's (Nano). Between the markers nothing is added."""
    nano = make_templated(tmp_path, "Llama", NEUTTS, "<|speech_{}|>", begin="<|begin_of_text|>")
    names = AutoTokenizer.from_pretrained(nano)
    ids = side_of("neutts", nano).prompt(SAID, CODES).tolist()
    assert names.decode(ids).startswith("<|begin_of_text|>user: Convert the text")
    assert ids.count(names.convert_tokens_to_ids("<|begin_of_text|>")) == 1
    begun = names.encode("user: Convert the text to speech:")
    assert ids[: len(begun)] == begun


def test_the_prompt_of_cosyvoice_has_text_and_voice_in_the_templates_places(cosyvoice: Path) -> None:
    side = side_of("cosyvoice2", cosyvoice)
    decode = AutoTokenizer.from_pretrained(cosyvoice).decode
    assert decode(side.prompt(SAID, CODES)) == "<|sos|>Who said it?Go on.<|task_id|><|s_5|><|s_23|><|s_0|>"
    assert decode(side.prompt(Utterance("a", "Go on."), None)) == "<|sos|>Go on.<|task_id|>"
    assert side.speech_names[-1] == "<|eos1|>"


def test_cosyvoice3_has_an_instruction_and_codes_that_end_before_other_tokens_called_alike(tmp_path: Path) -> None:
    folder = make_cosyvoice3(tmp_path)
    side = side_of("cosyvoice3", folder)
    assert AutoTokenizer.from_pretrained(folder).decode(side.prompt(SAID, CODES)) == (
        "<|sos|>You are a helpful assistant.<|endofprompt|>Who said it?Go on.<|task_id|><|s_5|><|s_23|><|s_0|>"
    )
    assert side.speech_names[-2:] == ("<|s_6560|>", "<|eos1|>")
    given = {"path": str(folder), "template": "<|sos|>{}", "speech": "<|s_{}|>", "end": "<|eos1|>", "phonemes": None}
    with pytest.raises(ValueError, match=r"has 6757 speech tokens, but <\|s_6561\|> is missing"):
        Templated(**given)
    with pytest.raises(ValueError, match=r"has 6565 speech tokens, but <\|s_6561\|> is missing"):
        Templated(**given, codes=6569)


def test_air_and_nano_share_names_and_not_ids_and_give_transformers_logits(air: Path, tmp_path: Path) -> None:
    nano = load("neutts", make_templated(tmp_path / "nano", "Llama", NEUTTS, "<|speech_{}|>", before=7))
    target = load("neutts", air)
    assert nano.text.speech_ids.tolist() != target.text.speech_ids.tolist()
    check_compatible(nano, target)
    for model in (nano, target):
        prompt = model.prompt(SAID, CODES)
        reference = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)
        with torch.no_grad():
            expected = reference(prompt[None]).logits[0, -3:, model.text.speech_ids]
        logits = model.step(prompt[None, -3:], model.prefill([prompt[:-2]], capacity=200))[0]
        torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


def test_a_pair_of_two_families_names_the_first_difference(air: Path, cosyvoice: Path) -> None:
    message = r"speech token 0 is <\|s_0\|> in the draft, <\|speech_0\|> in the target"
    with pytest.raises(ValueError, match=message):
        check_compatible(load("cosyvoice2", cosyvoice), load("neutts", air))


def test_what_a_tokenizer_lacks_is_named(air: Path, cosyvoice: Path) -> None:
    with pytest.raises(ValueError, match=r"no speech tokens <\|speech_0\|>, <\|speech_1\|>"):
        side_of("neutts", cosyvoice)
    given = {"path": str(air), "speech": "<|speech_{}|>", "phonemes": None}
    with pytest.raises(ValueError, match=r"lacks <\|stop\|>, <\|go\|>"):
        Templated(template="<|go|>{}", end="<|stop|>", **given)
    with pytest.raises(ValueError, match="must have one"):
        Templated(template="no text", end=NEUTTS[-1], **given)
    with pytest.raises(ValueError, match=r"text\.codes=30: the tokenizer has only 24 speech tokens"):
        Templated(template="{}", end=NEUTTS[-1], codes=30, **given)
    with pytest.raises(ValueError, match="nothing to say in"):
        side_of("neutts", air).prompt(Utterance("b", "..."), None)
    with pytest.raises(ValueError, match="utterance b: the text contains"):
        side_of("neutts", air).prompt(Utterance("b", "now <|speech_5|>"), None)


def test_a_bias_of_the_head_is_not_left_out_in_silence(tmp_path: Path) -> None:
    """As the original CosyVoice2 has one, and its export has not."""
    folder = make_templated(tmp_path, "Qwen2", COSYVOICE, "<|s_{}|>", tied=False)
    tensors = load_file(folder / "model.safetensors")
    biased = {**tensors, "lm_head.bias": torch.zeros(len(tensors["lm_head.weight"]))}
    save_file(biased, folder / "model.safetensors", {"format": "pt"})
    text = side_of("cosyvoice2", folder)
    for read in (lambda: load("cosyvoice2", folder), lambda: HfLM(str(folder), text, "float32", "cpu")):
        with pytest.raises(ValueError, match=r"lm_head\.bias: no part of the model reads it"):
            read()


@pytest.fixture(scope="module")
def orpheus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_orpheus(tmp_path_factory.mktemp("orpheus"))


def test_the_prompt_of_orpheus_is_that_of_its_authors(orpheus: Path) -> None:
    """As its package builds it: a marker, the tokenizer's ids of ``voice: text`` with what begins a text, markers."""
    side, tokenizer = side_of("orpheus", orpheus), AutoTokenizer.from_pretrained(orpheus)
    ids = tokenizer.convert_tokens_to_ids
    ends = ids(["<|eot_id|>", "<custom_token_4>", "<custom_token_5>", "<custom_token_1>"])
    said = tokenizer.encode("tara: Go on, <laugh> then.", add_special_tokens=False)
    expected = [ids("<custom_token_3>"), ids("<|begin_of_text|>"), *said, *ends]
    assert side.prompt(Utterance("a", "Go on, <laugh> then."), None).tolist() == expected
    assert side.speech_names[0] == "<custom_token_10>"
    assert side.speech_names[4096 * 3 + 7] == f"<custom_token_{10 + 4096 * 3 + 7}>"
    assert side.speech_names[-2:] == ("<custom_token_28681>", "<custom_token_2>")
    assert len(side.speech_ids) == 28_673
    with pytest.raises(ValueError, match="has a voice prompt, but this family speaks in the voice"):
        side.prompt(SAID, CODES)
    with pytest.raises(ValueError, match="the text contains '<custom_token_'"):
        side.prompt(Utterance("b", "now <custom_token_12>"), None)
    with pytest.raises(ValueError, match=r"text\.slots=5: 28672 codes cannot be divided evenly"):
        Templated(str(orpheus), "{}", "<custom_token_{}>", "<custom_token_2>", None, codes=28_672, first=10, slots=5)


def test_the_prompt_of_spark_has_the_voice_of_its_utterance(tmp_path: Path) -> None:
    folder = make_spark(tmp_path)
    side = side_of("spark", folder)
    voice = np.arange(32) * 100
    said = replace(SAID, load_voice=lambda: voice)
    names = "".join(f"<|bicodec_global_{code}|>" for code in voice)
    assert AutoTokenizer.from_pretrained(folder).decode(side.prompt(said, CODES)) == (
        f"<|task_tts|><|start_content|>Who said it?Go on.<|end_content|><|start_global_token|>{names}"
        "<|end_global_token|><|start_semantic_token|><|bicodec_semantic_5|><|bicodec_semantic_23|><|bicodec_semantic_0|>"
    )
    for wrong, message in (
        (None, "needs 32 tokens of the voice; name the column that holds them: dataset=tokens dataset.voice=COLUMN"),
        (np.arange(31), "its voice has 31 tokens; this family needs 32"),
        (np.full(32, 4096), "voice token 4096 exceeds 0 to 4095"),
    ):
        with pytest.raises(ValueError, match=f"utterance a: .*{message}"):
            side.prompt(replace(SAID, load_voice=None if wrong is None else lambda codes=wrong: codes), None)
    with pytest.raises(ValueError, match=r"give both \{voice\} and text\.voice, or neither"):
        Templated(str(folder), "{}{voice}", "<|bicodec_semantic_{}|>", "<|end_semantic_token|>", None)
