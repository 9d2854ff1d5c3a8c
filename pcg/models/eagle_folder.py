"""What the folder of a draft that reads the target (``pcg.models.eagle``) says of itself, in all published formats.

Ours; that of SGLang, SpecForge and ModelOpt (``eagle_config``); and that of vLLM and vllm-project/speculators
(``transformer_layer_config``). Settings that are not supported are refused by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from pcg.interfaces import Readable
from pcg.models.checkpoint import Checkpoint, Described
from pcg.models.decoder import LlamaConfig

LAYER, SPECULATORS_LAYER = "midlayer.", "layers.0."
# Settings that published folders may have, with the only values that are supported here.
_COMPUTED = {
    **dict.fromkeys(("fc_norm", "norm_output", "norm_before_fc", "use_mtp_layernorm", "parallel_drafting"), False),
    **dict.fromkeys(("use_aux_hidden_state", "use_input_layernorm_in_first_layer", "use_last_layernorm"), True),
}
_AUX = "eagle_aux_hidden_state_layer_ids"


def unnested(config: dict[str, Any]) -> dict[str, Any]:
    """config.json as one level; vllm-project/speculators puts a part of it under ``transformer_layer_config``."""
    layer = config.get("transformer_layer_config")
    return config if layer is None else Described({**config, **layer}, getattr(config, "file", Path("config.json")))


def states_read(config: dict[str, Any], layers: int, path: str) -> tuple[int, ...]:
    """The target's states that a head was trained on, as ``pcg.interfaces.TokenLM.prefill`` numbers them.

    Our folders have ``reads``. Others have ``eagle_aux_hidden_state_layer_ids``: at the top level, as in vLLM and
    speculators, id i is the state after i layers; inside ``eagle_config``, as in SGLang, SpecForge and ModelOpt, it is
    the state after layer i, which is one later. Without either, three states are read: early, middle and late.

    Raises:
        ValueError: the target has no such state; it is the last one, which is normed here and not there; or both keys
            are present and differ.
    """
    inside = (config.get("eagle_config") or {}).get(_AUX)
    named = {"reads": config.get("reads"), _AUX: config.get(_AUX), f"eagle_config.{_AUX}": inside}
    lists = {key: list(value) for key, value in named.items() if value}
    if not lists:
        return 2, layers // 2, max(layers - 3, 0)
    as_states = {key: tuple(i + (key != "reads" and key != _AUX) for i in value) for key, value in lists.items()}
    key, reads = next(iter(as_states.items()))
    if len(set(as_states.values())) > 1:
        raise ValueError(
            f"draft {path}: config.json names different states in {' and in '.join(lists)}: remove one of them"
        )
    last = layers if key == "reads" else layers - 1
    missing = [i for i in reads if not 0 <= i <= last]
    if missing:
        raise ValueError(f"draft {path}: config.json has {key}={lists[key]}; states 0 to {last} can be read")
    return reads


def check_target(checkpoint: Checkpoint, config: LlamaConfig, target: Readable, path: str) -> None:
    """Raises ValueError unless the folder has one layer of the target's width, only supported settings, and, where it
    names its target, this one."""
    settings = {**(checkpoint.config.get("eagle_config") or {}), **checkpoint.config}
    others = [f"{key}={settings[key]!r}" for key, value in _COMPUTED.items() if bool(settings.get(key, value)) != value]
    if others:
        raise ValueError(f"draft {path}: config.json has {', '.join(others)}, which is not supported")
    if "transformer_layer_config" in settings and "norm_before_residual" not in settings:
        raise ValueError(
            f"draft {path}: config.json has speculators' format but no norm_before_residual, which vLLM takes as true "
            "where it is missing: add the value that the head was trained with"
        )
    if config.layers != 1:
        raise ValueError(f"draft {path}: has {config.layers} layers; an EAGLE-3 head must have 1")
    if config.width != target.width:
        raise ValueError(
            f"draft {path}: reads states of width {config.width}, but the target's have width {target.width}"
        )
    check_trained_on(checkpoint.config, target.fingerprint, path)


def check_trained_on(config: dict[str, Any], fingerprint: str, path: str) -> None:
    """Raises ValueError where the folder names the target that it was trained on, and it is not this one."""
    trained_on = config.get("target_fingerprint")
    if trained_on not in (None, fingerprint):
        raise ValueError(
            f"draft {path}: was trained on the target with fingerprint {trained_on}, but this target has "
            f"{fingerprint}: choose that target, or train a draft for this one (trainer=eagle)"
        )


def draft_ids(checkpoint: Checkpoint, config: LlamaConfig) -> Int[Tensor, "rows"]:
    """The target's id of each row of the folder's own head.

    Raises:
        ValueError: the vocabulary is smaller and there is no ``d2t`` or no head; or ``d2t`` gives an id beyond the
            vocabulary, one id twice, or other ids than ``t2d``.
    """
    folder, count = checkpoint.folder, checkpoint.config.get("draft_vocab_size") or config.vocab
    if count != config.vocab:
        for name, why in (("lm_head.weight", "whose rows they are"), ("d2t", "which says which ids they are")):
            if name not in checkpoint:
                raise ValueError(
                    f"{folder}: config.json has draft_vocab_size={count} of vocab_size={config.vocab} ids, and there "
                    f"is no tensor {name}, {why}"
                )
    if "d2t" not in checkpoint or "lm_head.weight" not in checkpoint:
        return torch.arange(count)
    ids = torch.arange(count) + checkpoint.tensor("d2t", (count,))  # d2t[i]: the target's id of row i, less i
    outside = ids[(ids < 0) | (ids >= config.vocab)]
    if len(outside):
        raise ValueError(
            f"{folder}: d2t leads to id {int(outside[0])}, beyond the vocabulary of {config.vocab}: row i has the id "
            "i + d2t[i], so d2t must hold offsets, not ids"
        )
    if len(ids.unique()) < count:
        raise ValueError(f"{folder}: d2t leads {count} rows to {len(ids.unique())} ids: each row must have its own")
    if "t2d" in checkpoint and checkpoint.tensor("t2d", None).nonzero().flatten().tolist() != sorted(ids.tolist()):
        raise ValueError(f"{folder}: d2t and t2d name different ids: fetch the head again")
    return ids
