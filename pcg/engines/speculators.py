"""Writes a draft that reads the target (``pcg.models.eagle``) in the EAGLE-3 format of speculators and vLLM.

The format was taken from speculators' ``Eagle3Converter`` and vLLM 0.32's loader. It differs from ours:

- ``midlayer.*`` is ``layers.0.*``; settings of the layer are under ``transformer_layer_config``.
- ``eagle_aux_hidden_state_layer_ids`` counts as ``reads`` does: state i comes after i layers. vLLM passes the states in
  ascending order, and the last one before its norm, where ours is normed: a head that reads the last state cannot be
  written.
- ``norm_before_residual`` is always written, since vLLM takes it as true where it is missing.
- Output rows are those of speech tokens: the head's own, or copies of the target's where it uses the target's head.
  ``d2t[i]`` is row i's id in the target less i; ``t2d`` marks these ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor

from pcg.models import hub
from pcg.models.checkpoint import Checkpoint, resolve_folder
from pcg.models.decoder import LlamaConfig
from pcg.models.eagle_folder import LAYER, check_trained_on, draft_ids, states_read

_LAYER = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "hidden_act", "initializer_range", "rms_norm_eps", "rope_parameters",
    "rope_theta", "rope_scaling", "attention_bias", "mlp_bias", "dtype", "torch_dtype",
)  # fmt: skip


def write(draft: str, target: str, speech_ids: Int[Tensor, "vocab"], gamma: int, out: Path) -> str:
    """Writes the folder and returns a description of it.

    Args:
        draft, target: their folders, or hub ids.
        speech_ids: the target's own id of each token of the speech vocabulary.
        gamma: draft tokens a round, an engine's default.

    Raises:
        ValueError: the head belongs to another target, or reads states that the format does not support.
    """
    head, owner = Checkpoint(resolve_folder(draft)), Checkpoint(resolve_folder(target))
    check_trained_on(head.config, owner.fingerprint, draft)
    reads = _reads(head, owner.config["num_hidden_layers"], draft)
    tensors, ids = _tensors(head, owner, speech_ids)
    out.mkdir(parents=True, exist_ok=True)
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = _config(head, owner, target, reads, len(ids), gamma)
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    return f"an EAGLE-3 head over {len(ids):,} tokens that reads the states after layers {', '.join(map(str, reads))}"


def _reads(head: Checkpoint, layers: int, draft: str) -> tuple[int, ...]:
    reads = states_read(head.config, layers, draft)
    if reads != tuple(sorted(set(reads))) or reads[-1] >= layers:
        raise ValueError(
            f"draft {draft}: reads the states {list(reads)}, but format=speculators supports only ascending ones from "
            f"0 to {layers - 1}, as vLLM passes them (the last, {layers}, is normed here and not there). Train a head "
            f"with trainer.student.reads=[{layers // 3},{2 * layers // 3},{layers - 1}]"
        )
    return reads


def _tensors(
    head: Checkpoint, owner: Checkpoint, speech_ids: Int[Tensor, "vocab"]
) -> tuple[dict[str, Tensor], Int[Tensor, "rows"]]:
    """All tensors under the format's names, and the target's id of each output row."""
    names = [name for name in head.names if name not in ("lm_head.weight", "d2t", "t2d")]
    tensors = {name.replace(LAYER, "layers.0.", 1): head.tensor(name, None).contiguous() for name in names}
    if "lm_head.weight" in head:
        ids, rows = draft_ids(head, LlamaConfig.read(head.config, head.folder)), head.tensor("lm_head.weight", None)
        spoken = torch.isin(ids, speech_ids)
        ids, rows = ids[spoken], rows[spoken]
    else:
        ids = speech_ids.sort().values
        own = "lm_head.weight" in owner
        rows = owner.rows("lm_head.weight" if own else "model.embed_tokens.weight", ids).to(tensors["fc.weight"].dtype)
    marks = torch.zeros(owner.config["vocab_size"], dtype=torch.bool)
    marks[ids] = True
    tensors["lm_head.weight"] = rows.contiguous()
    if len(ids) < len(marks):
        tensors |= {"d2t": ids - torch.arange(len(ids)), "t2d": marks}
    return tensors, ids


def _config(
    head: Checkpoint, owner: Checkpoint, target: str, reads: tuple[int, ...], rows: int, gamma: int
) -> dict[str, Any]:
    positions = max(checkpoint.config["max_position_embeddings"] for checkpoint in (head, owner))
    layer = {key: head.config[key] for key in _LAYER if head.config.get(key) is not None}
    rope = layer.get("rope_parameters", {})  # of transformers 5; earlier versions have two keys
    if "rope_theta" in rope:
        layer["rope_theta"] = rope["rope_theta"]
    if rope.get("rope_type", "default") != "default":
        layer["rope_scaling"] = {key: value for key, value in rope.items() if key != "rope_theta"}
    proposal = {"proposal_type": "greedy", "speculative_tokens": gamma, "verifier_accept_k": 1, "accept_tolerance": 0.0}
    name = target if hub.is_hub_id(target) else str(owner.folder.resolve())
    verifier = {"name_or_path": name, "architectures": owner.config.get("architectures", ["LlamaForCausalLM"])}
    return {
        "architectures": ["Eagle3Speculator"],
        "speculators_model_type": "eagle3",
        "draft_vocab_size": rows,
        "norm_before_residual": bool(head.config.get("norm_before_residual")),
        "eagle_aux_hidden_state_layer_ids": list(reads),
        "tie_word_embeddings": False,
        "target_fingerprint": owner.fingerprint,
        "transformer_layer_config": {
            "model_type": "llama", **layer, "max_position_embeddings": positions, "tie_word_embeddings": False,
        },
        "speculators_config": {
            "algorithm": "eagle3", "proposal_methods": [proposal], "default_proposal_method": "greedy",
            "verifier": verifier,
        },
    }  # fmt: skip
