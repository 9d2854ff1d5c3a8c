"""Memory and traffic of a Llama, computed from its config.json alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pcg.models import hub
from pcg.models.checkpoint import dtype_of, read_json, resolve_folder

_LLAMA_3 = {
    "model_type": "llama", "vocab_size": 193_800, "num_key_value_heads": 8, "max_position_embeddings": 131_072,
    "rms_norm_eps": 1e-5,
}  # fmt: skip
# The published shapes, for plans without the model's folder (cards of Llama 3.1 8B, 3.2 3B and 1B; LLaSA's rows).
PUBLISHED: dict[str, dict[str, Any]] = {
    "HKUSTAudio/Llasa-8B": _LLAMA_3 | {
        "num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14_336, "num_attention_heads": 32,
        "tie_word_embeddings": False,
    },
    "HKUSTAudio/Llasa-3B": _LLAMA_3 | {
        "num_hidden_layers": 28, "hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 24,
        "tie_word_embeddings": True,
    },
    "HKUSTAudio/Llasa-1B": _LLAMA_3 | {
        "num_hidden_layers": 16, "hidden_size": 2048, "intermediate_size": 8192, "num_attention_heads": 32,
        "tie_word_embeddings": True,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Footprint:
    """Sizes of one model on one device, in bytes but for ``parameters`` and ``multiplied``.

    Attributes:
        parameters: of the checkpoint, tied tables counted once.
        weights: on the device.
        read: of these, by a pass.
        multiplied: number of weights that each token is multiplied by, with 2 floating-point operations each.
        cache: keys and values of one token of one row.
        published: whether the shape is the published one, because there is no config.json.
    """

    parameters: int
    weights: int
    read: int
    multiplied: int
    cache: int
    published: bool


def footprint(path: str, dtype: str, head: str, speech_rows: int, layers: int | None = None) -> Footprint:
    """Sizes of ``pcg.models.llama.LlamaLM`` with these settings.

    Args:
        speech_rows: number of audio tokens and end-of-speech, the rows of a head of speech alone.
        layers: None for all of its layers.

    Raises:
        FileNotFoundError: neither a folder with a config.json nor a hub id whose shape is known.
    """
    config, published = _config(path)
    width, hidden = config["hidden_size"], config["intermediate_size"]
    layers = layers or config["num_hidden_layers"]
    head_dim = config.get("head_dim") or width // config["num_attention_heads"]
    queries, keys = config["num_attention_heads"] * head_dim, config["num_key_value_heads"] * head_dim
    table, tied = config["vocab_size"] * width, config.get("tie_word_embeddings", False)
    layer = width * (2 * queries + 2 * keys + 3 * hidden) + 2 * width
    rows = (speech_rows if head == "speech" else config["vocab_size"]) * width
    shared = tied and head == "full"  # then the output head is the input table; a sliced one is a copy of its rows
    body, size = layers * layer + width, dtype_of(dtype).itemsize
    return Footprint(
        parameters=body + table * (1 if tied else 2),
        weights=size * (body + table + (0 if shared else rows)),
        read=size * (body + rows),
        multiplied=body + rows,
        cache=size * 2 * layers * keys,
        published=published,
    )


def _config(path: str) -> tuple[dict[str, Any], bool]:
    folder = hub.about(path, download=False) if hub.is_hub_id(path) else resolve_folder(path)
    if folder is not None:
        return read_json(folder / "config.json"), False
    if path not in PUBLISHED:
        raise FileNotFoundError(
            f"{path}: config.json is not in the local cache, and the shape is known only of {', '.join(PUBLISHED)}; "
            f"run `hf download {path} config.json`"
        )
    return PUBLISHED[path], True
