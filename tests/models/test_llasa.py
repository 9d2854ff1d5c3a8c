"""LLaSA's text side and its loading, on folders of the real names and shape."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, LlamaForCausalLM

from pcg.models import hub
from pcg.models.checkpoint import resolve_folder
from pcg.models.llama import LlamaLM
from pcg.models.llasa import Llasa
from pcg.sampling import Sampling
from pcg.types import Utterance
from tests.shapes import REAL_AUDIO, REAL_BASE, REAL_ROWS, make_llasa, save_llasa_tokenizer

SAID = Utterance("a", "The end.", prompt_text="Who said the rest?")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_llasa(tmp_path_factory.mktemp("llasa"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """193,800 rows, untied as the 8B, in several shards."""
    return make_llasa(
        tmp_path_factory.mktemp("real"), audio_tokens=REAL_AUDIO, base=REAL_BASE, tied=False, shard="20MB"
    )


def load(folder: Path, **changes: str) -> LlamaLM:
    return LlamaLM(
        str(folder), Llasa(str(folder)), **{"dtype": "float32", "device": "cpu", "head": "speech", **changes}
    )


def test_the_prompt_is_the_model_cards(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    chat = [
        {"role": "user", "content": "Convert the text to speech:<|TEXT_UNDERSTANDING_START|>Who said the rest? The end."
         "<|TEXT_UNDERSTANDING_END|>"},
        {"role": "assistant", "content": "<|SPEECH_GENERATION_START|><|s_5|><|s_63|><|s_0|>"},
    ]  # fmt: skip
    card = tokenizer.apply_chat_template(
        chat, tokenize=True, return_dict=False, continue_final_message=True, date_string="26 Jul 2024"
    )
    assert Llasa(str(folder)).prompt(SAID, torch.tensor([5, 63, 0])).tolist() == card
    assert "Today Date: 26 Jul 2024" in tokenizer.decode(card)
    assert tokenizer.decode(card[-4:]) == "<|SPEECH_GENERATION_START|><|s_5|><|s_63|><|s_0|>"


def test_the_date_is_what_the_config_says_and_not_today(folder: Path) -> None:
    side = Llasa(str(folder), date="01 Jan 2025")
    ids = side.prompt(Utterance("a", "Hi."), None)
    assert "Today Date: 01 Jan 2025" in AutoTokenizer.from_pretrained(folder).decode(ids)
    assert "TART|>Hi.<|TEXT" in AutoTokenizer.from_pretrained(folder).decode(ids)  # no prompt, no space


@pytest.mark.parametrize("text", ["...", "🙂", ""])
def test_a_text_in_which_nothing_is_said_is_refused(folder: Path, text: str) -> None:
    with pytest.raises(ValueError, match=f"utterance b: nothing to say in {re.escape(repr(text))}"):
        Llasa(str(folder)).prompt(Utterance("b", text, prompt_text="Who said the rest?"), None)


def test_a_text_cannot_spell_the_models_tokens(folder: Path) -> None:
    with pytest.raises(ValueError, match="utterance b: the text contains"):
        Llasa(str(folder)).prompt(Utterance("b", "now <|s_5|>"), None)


def test_ids_are_found_by_name_whatever_their_order(folder: Path) -> None:
    side, tokenizer = Llasa(str(folder)), AutoTokenizer.from_pretrained(folder)
    assert len(side.speech_ids) == 65
    assert tokenizer.convert_ids_to_tokens(int(side.speech_ids[-1])) == "<|SPEECH_GENERATION_END|>"
    assert tokenizer.convert_ids_to_tokens(int(side.speech_ids[17])) == "<|s_17|>"


def test_a_wrong_tokenizer_is_named(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"tokenizer_config\.json is missing"):
        Llasa(str(tmp_path))
    save_llasa_tokenizer(tmp_path / "gap", 20, 300, skip=(7,))
    with pytest.raises(ValueError, match=r"19 speech tokens, but <\|s_7\|> is missing"):
        Llasa(str(tmp_path / "gap"))
    save_llasa_tokenizer(tmp_path / "plain", 0, 300)
    with pytest.raises(ValueError, match=r"no speech tokens <\|s_0\|>"):
        Llasa(str(tmp_path / "plain"))
    # speech tokens beyond the model's rows
    save_llasa_tokenizer(tmp_path / "more", 500, 300)
    with pytest.raises(ValueError, match="is beyond its 372 rows"):
        LlamaLM(str(folder), Llasa(str(tmp_path / "more")), dtype="float32", device="cpu", head="speech")


@pytest.mark.slow
def test_the_real_shape_equals_transformers(real: Path) -> None:
    """193,800 rows in bfloat16 shards, llama3 RoPE: prefill and cached steps of rows of different lengths."""
    assert len(list(real.glob("*.safetensors"))) > 1
    reference = LlamaForCausalLM.from_pretrained(real, dtype=torch.float32).eval()
    assert reference.config.vocab_size == REAL_ROWS
    model = load(real)
    assert (model.vocab_size, model.end) == (REAL_AUDIO + 1, REAL_AUDIO)
    prompts = [model.prompt(SAID, torch.tensor([1, 65_535])), model.prompt(Utterance("b", "Go on."), None)]
    more = model.token_ids(torch.tensor([[5, 9, 70], [3, 65_535, 0]]))
    cache = model.prefill(prompts, 400)
    logits = model.step(torch.cat([torch.stack([p[-1:] for p in prompts]), more], 1), cache)
    for row, prompt in enumerate(prompts):
        with torch.inference_mode():
            whole = reference(torch.cat([prompt, more[row]])[None]).logits[0, -4:]
        torch.testing.assert_close(logits[row], whole[:, model.text.speech_ids], rtol=0, atol=1e-4)
    probabilities = Sampling().probabilities
    # the sliced head's probabilities are the full head's, renormalised over what can be said
    full = load(real, head="full")
    cache = full.prefill(prompts[:1], 400)
    step = full.step(prompts[0][None, -1:], cache)[0, 0]
    torch.testing.assert_close(probabilities(logits[0, 0]), probabilities(step), rtol=1e-4, atol=0)
    with torch.inference_mode():
        everything = reference(prompts[0][None]).logits[0, -1].softmax(-1)[model.text.speech_ids]
    torch.testing.assert_close(probabilities(step), everything / everything.sum(), rtol=1e-3, atol=1e-9)


def test_a_folder_goes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hub, "fetch", lambda name, *_: tmp_path / "fetched" / name)
    assert resolve_folder("HKUSTAudio/Llasa-8B") == tmp_path / "fetched/HKUSTAudio/Llasa-8B"
    (tmp_path / "HKUSTAudio/Llasa-8B").mkdir(parents=True)
    assert resolve_folder("HKUSTAudio/Llasa-8B") == Path("HKUSTAudio/Llasa-8B")
    for path in ("./a/b", "/a/b", "a", "a/b/c", "~/a"):
        assert not hub.is_hub_id(path)


def test_a_part_in_the_cache_is_not_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    def hub_of(*files: str) -> Callable[..., str]:
        def download(_name: str, allow_patterns: list[str], local_files_only: bool = False, **_: object) -> str:
            for file in () if local_files_only else files:
                (tmp_path / file).write_text('{"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}')
            return str(tmp_path)

        return download

    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_of())
    with pytest.raises(ValueError, match=r"no \*\.safetensors on the hub.*save_pretrained"):
        hub.fetch("some/model")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_of("model.safetensors.index.json", "a.safetensors"))
    with pytest.raises(ValueError, match=r"no \*\.safetensors"):
        hub.fetch("some/model")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_of("b.safetensors"))
    assert hub.fetch("some/model") == tmp_path
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub_of())
    assert hub.fetch("some/model") == tmp_path  # whole in the cache


def test_without_a_network_a_hub_id_says_what_to_place_where(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[bool] = []

    def offline(_name: str, allow_patterns: list[str], local_files_only: bool = False, **_: object) -> str:
        assert not any(pattern.endswith((".bin", ".pt", ".py")) for pattern in allow_patterns)
        asked.append(local_files_only)
        raise ConnectionError("no route to host")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match=r"no route to host.*hf download HKUSTAudio/Llasa-8B.*config\.json"):
        resolve_folder("HKUSTAudio/Llasa-8B")
    assert asked.index(False) == len(asked) - 1 > 0  # the cache first


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "the tokenizer has no chat template, which is needed for prompts: copy chat_template"),
        ("{{ nothing.of.it }}", "the chat template cannot write a prompt"),
        ("{% for m in messages %}{{ m['role'] }}{% endfor %}", "the chat template"),
        ("{{ raise_exception('no system role') }}", "the chat template cannot write a prompt: "),
    ],
)
def test_a_tokenizer_that_writes_no_prompt_is_refused_when_it_is_read(
    template: str | None, message: str, tmp_path: Path
) -> None:
    """So that ``pcg inspect`` gives no line of which every utterance fails."""
    folder = make_llasa(tmp_path)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told.pop("chat_template", None)
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match=message):
        Llasa(str(folder))
