"""Whether a model attends to a window of its past only, by its config.json."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

_UNUSED_UNLESS_SAID = ("qwen2", "qwen3")  # model_type whose window counts only with use_sliding_window


def refuse_window(config: dict[str, Any], folder: Path) -> None:
    """Raise ValueError for layers that do not see their whole past: no cache here forgets tokens by itself.

    A window as long as the model's positions hides nothing. Llama has none, whatever its config.json says.
    """
    kind, window = config.get("model_type"), config.get("sliding_window")
    used = config.get("use_sliding_window", kind not in _UNUSED_UNLESS_SAID)
    if kind == "llama" or not window or not used or window >= config.get("max_position_embeddings", math.inf):
        return
    layers = config["num_hidden_layers"]
    first = config.get("max_window_layers", 28 if kind in _UNUSED_UNLESS_SAID else 0)
    kinds = config.get("layer_types") or ["sliding_attention" if place >= first else "" for place in range(layers)]
    if sliding := kinds.count("sliding_attention"):
        raise ValueError(
            f"{folder}: config.json has sliding_window={window} in {sliding} of {layers} layers; only models that "
            "attend to their whole past are read, by target=hf and target=transformers alike"
        )
