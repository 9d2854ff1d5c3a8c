"""Chatterbox Turbo and Nano (Resemble AI, MIT): GPT-2 over text and speech, in a voice that is read from a file.

Their repositories have no config.json, so the shape is read from the tensors of ``t3_*_v1.safetensors``. A prompt is
the voice (its speaker embedding after a linear map, then speech tokens of a recording), the text in GPT-2's tokens and
the token that begins speech, at consecutive positions. This is their ``T3.inference_turbo``. Departure: a repetition
penalty is applied before temperature, top-k and top-p, as everywhere in this framework.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from safetensors import safe_open
from torch import Tensor

from pcg import digest
from pcg.models import hub
from pcg.models.checkpoint import Dtype, dtype_of, read_tensors, resolve_folder, unread_tensors
from pcg.models.footprint import Footprint
from pcg.models.hf import CausalLM
from pcg.models.text_side import check_text, tokenizer_of
from pcg.types import Utterance

CODES, BEGIN, END = 6561, 6561, 6562  # speech tokens are ids 0 to 6560 of the speech table
_SPEECH = END + 1  # rows of it
_HEAD_DIM = 64  # of every GPT-2
# Prefixes of the tensors that are used. The text head, GPT-2's own table and causal masks of older files are not.
_READ = ("text_emb.", "speech_emb.", "speech_head.", "cond_enc.spkr_enc.", "tfmr.")
_NOT_USED = ("text_head.weight", "text_head.bias", "tfmr.wte.weight")
_MASKS = (".attn.bias", ".masked_bias")
_TEXT = 50_276  # rows of the text table: GPT-2's tokens and 19 tags
_PUBLISHED = {"t3_turbo_v1.safetensors": (24, 1024, 8196), "t3_nano_v1.safetensors": (12, 768, 8196)}
# Replacements of punctuation, as in Turbo's own code.
_WRITTEN = {"…": ", ", ":": ",", "—": "-", "–": "-", " ,": ",", "“": '"', "”": '"', "‘": "'", "’": "'"}


def footprint(path: str, weights: str, dtype: str) -> Footprint:
    """Sizes of ``ChatterboxLM`` with these settings; raises FileNotFoundError without the file or a known shape."""
    folder = hub.about(path, download=False) if hub.is_hub_id(path) else resolve_folder(path)
    file = (folder or Path(path)) / weights
    if not file.is_file() and weights not in _PUBLISHED:
        raise FileNotFoundError(f"{file} is missing, and shapes are known only of {', '.join(_PUBLISHED)}")
    layers, width, positions = _shape(_shapes(file)) if file.is_file() else _PUBLISHED[weights]
    head, size = _SPEECH * (width + 1), dtype_of(dtype).itemsize
    body = layers * (12 * width**2 + 13 * width) + 2 * width
    parameters = body + head + (_SPEECH + _TEXT + 1 + positions) * width
    return Footprint(
        parameters=parameters,
        weights=size * parameters,
        read=size * (body + head),
        multiplied=body + head,
        cache=size * 2 * layers * width,
        published=not file.is_file(),
    )


class ChatterboxLM(CausalLM):
    """A ``TokenLM`` made of a T3 of the Turbo kind, by transformers' GPT-2.

    Args:
        path: folder with the tokenizer and the weights, or a hub id.
        weights: name of the file of weights.
        voice: a safetensors file with ``speaker_emb`` (256 numbers) and ``cond_prompt_speech_tokens`` (speech tokens of
            a recording of that voice), as in the repository's ``conds.pt``; every utterance is spoken in it.

    Raises:
        FileNotFoundError, ValueError: something in the files is missing or wrong; the message names it.
    """

    footprint = staticmethod(footprint)

    def __init__(self, path: str, weights: str, voice: str | None, dtype: Dtype, device: str | torch.device) -> None:
        folder = resolve_folder(path, weights)
        tensors = read_tensors(folder / weights)
        _check_names(folder / weights, tensors)
        speaker, voice_tokens = _voice(voice, tensors["cond_enc.spkr_enc.weight"].shape[1])
        row = tensors["cond_enc.spkr_enc.weight"].float() @ speaker + tensors["cond_enc.spkr_enc.bias"].float()
        digests = repr(sorted(digest.of_tensors(folder / weights).items()))
        self.fingerprint = hashlib.blake2b(digests.encode(), digest_size=5).hexdigest()
        text = ChatterboxText(folder, voice_tokens, len(tensors["text_emb.weight"]))
        super().__init__(_gpt2(tensors, row).to(dtype_of(dtype)), text, path, device)


class ChatterboxText:
    """The text side. Ids of its one table are speech tokens, then the tokenizer's, then the speaker.

    Args:
        folder: of the tokenizer.
        voice_tokens: speech tokens of the voice.
        rows: of the text table.

    Raises:
        ValueError: the tokenizer has more tokens than the table has rows.
    """

    def __init__(self, folder: Path, voice_tokens: Int[Tensor, "_"], rows: int) -> None:
        self._tokenizer = tokenizer_of(folder)
        if len(self._tokenizer) > rows:
            raise ValueError(f"{folder}: the tokenizer has {len(self._tokenizer)} tokens, the text table {rows} rows")
        self._voice = torch.cat([torch.tensor([_SPEECH + rows]), voice_tokens])
        self.speech_ids = torch.tensor([*range(CODES), END])
        self.speech_names = (*(f"speech token {number}" for number in range(CODES)), "end of speech")

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """Raises ValueError for a text that has nothing to say, and for an utterance with a voice prompt."""
        check_text(utterance)
        if prompt_tokens is not None:
            raise ValueError(
                f"utterance {utterance.id} has a voice prompt, but Chatterbox speaks in the voice of target.voice, "
                "since a voice needs a speaker embedding too: choose texts without voices (dataset=texts)"
            )
        ids = self._tokenizer.encode(cleaned(utterance.text), add_special_tokens=False)
        return torch.cat([self._voice, torch.tensor(ids) + _SPEECH, torch.tensor([BEGIN])])


def cleaned(text: str) -> str:
    """The text with a capital first letter, single spaces, plain punctuation, and a punctuation mark at the end."""
    text = " ".join(text.split())
    text = text[:1].upper() + text[1:]
    for sign, written in _WRITTEN.items():
        text = text.replace(sign, written)
    text = text.rstrip(" ")
    return text if text.endswith((".", "!", "?", "-", ",")) else f"{text}."


def _check_names(file: Path, tensors: dict[str, Tensor]) -> None:
    wanted = [f"{part}.weight" for part in ("tfmr.h.0.attn.c_attn", "tfmr.wpe", "tfmr.ln_f", "text_emb", "speech_emb")]
    wanted += [f"{part}.{kind}" for part in ("speech_head", "cond_enc.spkr_enc") for kind in ("weight", "bias")]
    missing = [name for name in wanted if name not in tensors]
    if missing:
        raise ValueError(f"{file} lacks {', '.join(missing)}, so it is not a T3 of Chatterbox Turbo's kind")
    unread = sorted(name for name in tensors if not name.startswith(_READ) and name not in _NOT_USED)
    if unread:
        raise ValueError(f"{file}: {unread_tensors(unread)}")
    if len(tensors["speech_emb.weight"]) != _SPEECH:
        raise ValueError(f"{file}: speech_emb.weight has {len(tensors['speech_emb.weight'])} rows, expected {_SPEECH}")


def _voice(file: str | None, width: int) -> tuple[Float[Tensor, "width"], Int[Tensor, "voice_tokens"]]:
    if file is None:
        raise ValueError(
            "target.voice is required: Chatterbox reads its voice from a file, target.voice=FILE.safetensors "
            "(docs/models.md)"
        )
    if not Path(file).expanduser().is_file():
        raise FileNotFoundError(f"voice={file}: the file does not exist; docs/models.md says how to make one")
    tensors = read_tensors(Path(file).expanduser())
    missing = [name for name in ("speaker_emb", "cond_prompt_speech_tokens") if name not in tensors]
    if missing:
        raise ValueError(f"voice={file} lacks {', '.join(missing)}")
    speaker, voice_tokens = (
        tensors["speaker_emb"].float().flatten(),
        tensors["cond_prompt_speech_tokens"].long().flatten(),
    )
    if len(speaker) != width:
        raise ValueError(f"voice={file}: speaker_emb has {len(speaker)} numbers, but this model needs {width}")
    if len(voice_tokens) and not 0 <= int(voice_tokens.min()) <= int(voice_tokens.max()) < CODES:
        raise ValueError(f"voice={file}: cond_prompt_speech_tokens has tokens beyond 0 to {CODES - 1}")
    return speaker, voice_tokens


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of all tensors, from the file's header."""
    with safe_open(str(file), framework="pt") as opened:
        return {name: tuple(opened.get_slice(name).get_shape()) for name in opened.keys()}  # noqa: SIM118


def _shape(shapes: Mapping[str, Sequence[int]]) -> tuple[int, int, int]:
    """Numbers of layers, width, positions."""
    layers = sum(name.endswith(".ln_1.weight") for name in shapes)
    return layers, shapes["speech_emb.weight"][1], shapes["tfmr.wpe.weight"][0]


def _gpt2(tensors: dict[str, Tensor], speaker: Float[Tensor, "width"]) -> Any:
    """GPT-2 with one table of speech, text and speaker instead of its own, and the speech head instead of its own."""
    from transformers import GPT2Config, GPT2LMHeadModel

    layers, width, positions = _shape({name: tensor.shape for name, tensor in tensors.items()})
    table = torch.cat([tensors["speech_emb.weight"].float(), tensors["text_emb.weight"].float(), speaker[None]])
    config = GPT2Config(
        vocab_size=len(table), n_embd=width, n_layer=layers, n_head=width // _HEAD_DIM, n_positions=positions,
        tie_word_embeddings=False, bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    model.lm_head = torch.nn.Linear(width, _SPEECH)
    body = {
        name.replace("tfmr.", "transformer."): tensor
        for name, tensor in tensors.items()
        if name.startswith("tfmr.") and name not in _NOT_USED and not name.endswith(_MASKS)
    }
    head = {"lm_head.weight": tensors["speech_head.weight"], "lm_head.bias": tensors["speech_head.bias"]}
    try:
        model.load_state_dict({**body, **head, "transformer.wte.weight": table})
    except RuntimeError as error:  # names or shapes do not fit
        raise ValueError(f"these weights are not a T3 of Chatterbox Turbo's kind: {error}") from error
    return model
