"""What config.json says of a decoder of Llama's line: Llama, Qwen2 (biases), Qwen3 (norms of queries and keys)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pcg.models.checkpoint import Described
from pcg.models.rope import Rope, known
from pcg.models.sliding_window import refuse_window

KINDS = ("llama", "qwen2", "qwen3")  # model_type of what is read here


@dataclass(frozen=True)
class LlamaConfig:
    """What a pass needs of config.json.

    Attributes:
        biased: queries, keys and values have biases (Qwen2).
        head_norms: queries and keys are normed head by head before they are turned (Qwen3).
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
        """Raises ValueError for a model that is no Llama, Qwen2 or Qwen3, or sees a window of its past only."""
        kind = config.get("model_type")
        if kind not in KINDS:
            raise ValueError(
                f"{folder}: config.json has model_type={kind!r}; this decoder reads {', '.join(KINDS)} only"
            )
        for key, value in {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}.items():
            if config.get(key, value) != value:
                raise ValueError(f"{folder}: config.json has {key}={config[key]!r}; this decoder reads {value!r} only")
        refuse_window(config, folder)
        heads = config["num_attention_heads"]
        head_dim = config.get("head_dim") or (128 if kind == "qwen3" else config["hidden_size"] // heads)
        rope = _rope(config, head_dim, folder)
        return LlamaConfig(
            layers=config["num_hidden_layers"],
            width=config["hidden_size"],
            hidden=config["intermediate_size"],
            heads=heads,
            kv_heads=config.get("num_key_value_heads") or heads,
            head_dim=head_dim,
            vocab=config["vocab_size"],
            positions=known(rope),
            eps=config["rms_norm_eps"],
            tied=config.get("tie_word_embeddings", False),
            rope=rope,
            biased=kind == "qwen2",
            head_norms=kind == "qwen3",
        )


def _rope(config: dict[str, Any], head_dim: int, folder: Path) -> Rope:
    positions = config["max_position_embeddings"]
    # transformers 5 writes rope_parameters, before it rope_theta and rope_scaling
    settings = {
        "rope_theta": config.get("rope_theta", 10_000.0),
        "original_max_position_embeddings": positions,
        **(config.get("rope_parameters") or config.get("rope_scaling") or {}),
    }
    if config.get("original_max_position_embeddings"):  # as in transformers, before the kind's own
        settings["original_max_position_embeddings"] = config["original_max_position_embeddings"]
    return Rope(Described(settings, folder / "config.json"), head_dim, positions)
