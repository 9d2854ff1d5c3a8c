"""The sizes that config.json gives for Llama, Qwen2 (with biases) and Qwen3 (with norms of queries and keys)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcg.models.rope import Rope

KINDS = ("llama", "qwen2", "qwen3")  # values of model_type that are supported
_WINDOW_IS_OPTIONAL = ("qwen2", "qwen3")  # model_type whose window counts only with use_sliding_window


@dataclass(frozen=True)
class LlamaConfig:
    """The values of config.json that a pass needs.

    Attributes:
        biased: queries, keys and values have biases (Qwen2).
        head_norms: each head of queries and keys is normed before rotary positions are applied (Qwen3).
    """

    layers: int
    width: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    positions: int
    eps: float
    tied: bool
    rope: Rope
    biased: bool = False
    head_norms: bool = False

    @staticmethod
    def read(config: dict[str, Any], folder: Path) -> LlamaConfig:
        """Raises ValueError for a model that is no Llama, Qwen2 or Qwen3, or attends only to a window of its past."""
        kind = config.get("model_type")
        if kind not in KINDS:
            raise ValueError(
                f"{folder}: config.json has model_type={kind!r}; this decoder reads only {', '.join(KINDS)}"
            )
        for key, value in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}.items():
            if config.get(key, value) != value:
                raise ValueError(f"{folder}: config.json has {key}={config[key]!r}; this decoder reads only {value!r}")
        refuse_window(config, folder)
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or (128 if kind == "qwen3" else config["hidden_size"] // heads)
        rope = _rope(config, head_dim)
        return LlamaConfig(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            hidden=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=head_dim,
            vocab=config["vocab_size"],
            positions=rope.known_positions,
            eps=config["rms_norm_eps"],
            tied=config.get("tie_word_embeddings", False),
            rope=rope,
            biased=kind == "qwen2",
            head_norms=kind == "qwen3",
        )


def _rope(config: dict[str, Any], head_dim: int) -> Rope:
    positions = config["max_position_embeddings"]
    # transformers 5 writes rope_parameters, earlier versions rope_theta and rope_scaling
    settings = {
        "rope_theta": config.get("rope_theta", 10_000.0),
        **(config.get("rope_parameters") or config.get("rope_scaling") or {}),
    }
    if config.get("original_max_position_embeddings"):  # as in transformers, before the kind's own
        settings["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    rope = Rope(settings, head_dim, positions)
    rope.check()
    return rope


def refuse_window(config: dict[str, Any], folder: Path) -> None:
    """Raises ValueError for layers that attend only to a window of their past, which no cache here supports.

    A window as long as the model's positions is no limit. Llama has none, even if its config.json names one.
    """
    kind, window = config.get("model_type"), config.get("sliding_window")
    used = config.get("use_sliding_window", kind not in _WINDOW_IS_OPTIONAL)
    if kind == "llama" or not window or not used or window >= config.get("max_position_embeddings", math.inf):
        return
    layers = config["num_hidden_layers"]
    first = config.get("max_window_layers", 28 if kind in _WINDOW_IS_OPTIONAL else 0)
    kinds = config.get("layer_types") or ["sliding_attention" if layer >= first else "" for layer in range(layers)]
    if sliding := kinds.count("sliding_attention"):
        raise ValueError(
            f"{folder}: config.json has sliding_window={window} in {sliding} of {layers} layers; target=hf and "
            "target=transformers support only models that attend to their whole past"
        )
