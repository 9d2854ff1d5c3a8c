"""Which windows of the past are refused: by both decoders alike, whatever else they read."""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from pcg.models.decoder import LlamaConfig, refuse_window
from pcg.models.hf import HfLM

TEXT = SimpleNamespace(speech_ids=torch.arange(20, 40), prompt=lambda utterance, prompt_tokens: None)
USED = {"sliding_window": 8, "use_sliding_window": True, "max_window_layers": 1}


@pytest.mark.parametrize(
    ("form", "sliding"),
    [
        (USED, 1),
        ({**USED, "max_window_layers": 0}, 2),
        ({**USED, "max_window_layers": 2}, 0),
        ({**USED, "layer_types": ["sliding_attention", "full_attention"]}, 1),
        ({**USED, "layer_types": ["full_attention"] * 2}, 0),
        ({**USED, "use_sliding_window": False}, 0),
        ({**USED, "sliding_window": 64}, 0),  # as long as the model's positions
        ({**USED, "sliding_window": None}, 0),
    ],
)
def test_both_decoders_decide_alike(form: dict[str, Any], sliding: int, tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "intermediate_size": 16, "num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen2ForCausalLM(
        Qwen2Config(vocab_size=40, num_hidden_layers=2, max_position_embeddings=64, **shape)
    ).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "layer_types": None, **form}))
    message = (
        rf"{tmp_path}: config.json has sliding_window=8 in {sliding} of 2 layers; target=hf and target=transformers"
    )
    for read in (
        lambda: LlamaConfig.read(json.loads((tmp_path / "config.json").read_text()), tmp_path),
        lambda: HfLM(str(tmp_path), TEXT, "float32", "cpu"),
    ):
        with pytest.raises(ValueError, match=message) if sliding else nullcontext():
            read()


def test_other_families_use_a_window_that_they_name(tmp_path: Path) -> None:
    refuse_window({"model_type": "llama", "sliding_window": 8, "num_hidden_layers": 3}, tmp_path)
    with pytest.raises(ValueError, match="sliding_window=8 in 3 of 3 layers"):
        refuse_window({"model_type": "mistral", "sliding_window": 8, "num_hidden_layers": 3}, tmp_path)
