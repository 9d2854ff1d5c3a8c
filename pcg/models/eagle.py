"""A draft that reads the target's hidden states: one decoder layer over the target's own tables (EAGLE-3).

Source: EAGLE-3, arXiv 2503.01840 (EAGLE: 2401.15077). The token at position i enters as its embedding and the target's
states of position i - 1; where the target has not been yet, the draft's own last state stands in for those. The folder
holds tensors as published EAGLE-3 heads name them (``fc``, ``midlayer.*``, ``norm``, and where they have their own
``embed_tokens``, ``lm_head`` with ``d2t``), or as vllm-project/speculators does (``layers.0.*``); embeddings and head
where it has none are the target's, shared and never copied. What a folder says of the computation is read or refused by
name. Departures: an entry for the prompt's first token, whose state before is zero; the chain only, no tree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pcg.history import History
from pcg.interfaces import Drafted, Readable
from pcg.models.blocks import Blocks, LlamaCache, Memory, Span, check_room
from pcg.models.chain import chain
from pcg.models.checkpoint import Checkpoint, Described, Dtype, dtype_of, read_json, resolve_folder
from pcg.models.decoder import LlamaConfig
from pcg.models.footprint import Footprint
from pcg.models.linear import is_plain, layout_for
from pcg.models.native import Drafting, Product
from pcg.sampling import Sampling
from pcg.types import Utterance

LAYER, SPECULATORS_LAYER = "midlayer.", "layers.0."
# What folders of others may say of the computation, and what they must say to be computed here.
_COMPUTED = {
    **dict.fromkeys(("fc_norm", "norm_output", "norm_before_fc", "use_mtp_layernorm", "parallel_drafting"), False),
    **dict.fromkeys(("use_aux_hidden_state", "use_input_layernorm_in_first_layer", "use_last_layernorm"), True),
}
_AUX = "eagle_aux_hidden_state_layer_ids"


class EagleCache(LlamaCache):
    """The draft's own keys and values, the target's cache, and the draft's last state of each row."""

    def __init__(self, blocks: Blocks, batch: int, capacity: int, target: Any) -> None:
        super().__init__(blocks.config, batch, capacity, blocks.dtype, blocks.device)
        self.target = target
        self.own: Float[Tensor, "batch 1 width"] = self.states.new_zeros(batch, 1, blocks.config.width)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        super().keep(rows)
        self.own = self.own[rows.to(self.own.device)]


class EagleLM:
    """``TokenLM`` that drafts for the one target it was trained on.

    Args:
        path: folder of config.json (a Llama's sizes; ``reads``: the states it was trained on; ``target_fingerprint``)
            and model.safetensors.
        target: the target; the runner gives it.
        dtype: float32, bfloat16 or float16; of the target.
        device: a torch device.

    Raises:
        ValueError: the folder belongs to another target, or to one whose states cannot be read.
    """

    def __init__(self, path: str, target: Any, dtype: Dtype, device: str | torch.device) -> None:
        if not isinstance(target, Readable):
            raise ValueError(f"draft {path}: reads hidden states, which a {type(target).__name__} does not show")
        checkpoint = Checkpoint(resolve_folder(path))
        checkpoint.config = unnested(checkpoint.config)
        self.device, self.text = torch.device(device), getattr(target, "text", None)
        self.vocab_size, self.end = target.vocab_size, target.end
        self.config = c = LlamaConfig.read(checkpoint.config, checkpoint.folder)
        _check_target(checkpoint, c, target, path)
        self.reads = states_read(checkpoint.config, target.layers, path)
        width = c.width
        fuse = checkpoint.tensor("fc.weight", (width, len(self.reads) * width))
        layout = layout_for(c.head_dim, fuse.dtype, dtype_of(dtype), self.device)
        self._target, self.blocks = target, Blocks(c, dtype_of(dtype), self.device, layout)
        self._fuse = self.blocks.linear(fuse)
        layer = LAYER if f"{LAYER}hidden_norm.weight" in checkpoint else SPECULATORS_LAYER
        self._layer = self.blocks.read_layer(checkpoint, layer, inputs=2 * width)
        self._state_norm = self.blocks.read_norm(checkpoint, f"{layer}hidden_norm.weight")
        self._norm = self.blocks.read_norm(checkpoint, "norm.weight")
        self._normed_residual = bool(checkpoint.config.get("norm_before_residual"))
        self._table = _own_table(checkpoint, c, self.blocks)
        self._head, self._places = _own_head(checkpoint, c, target, self.blocks)
        self._passes = self.blocks.passes([self._layer])
        self._drafting = self._whole_blocks()
        checkpoint.refuse_unread()

    @property
    def is_plain(self) -> bool:
        """Whether its products are torch's own, which a compiler sees through."""
        return is_plain(self._layer.qkv) and bool(getattr(self._target, "is_plain", False))

    @property
    def layout(self) -> str:
        """How its weights lie in memory, and so what multiplies by them (``pcg.models.linear``)."""
        return self.blocks.layout

    @staticmethod
    def footprint(path: str, dtype: str, speech_rows: int) -> Footprint:
        """Of one with the target's head, which it reads and does not hold."""
        config = unnested(read_json(resolve_folder(path) / "config.json"))
        sizes = LlamaConfig.read(config, resolve_folder(path))
        width, queries, keys = sizes.width, sizes.heads * sizes.head_dim, sizes.kv_heads * sizes.head_dim
        body = width * (len(config.get("reads") or (0, 0, 0)) * width + 2 * (queries + 2 * keys) + queries)
        body += width * (3 * sizes.hidden + 4)
        size, head = dtype_of(dtype).itemsize, speech_rows * width
        return Footprint(body, size * body, size * (body + head), body + head, size * 2 * keys, published=False)

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self._target.prompt(utterance, prompt_tokens)

    @torch.inference_mode()
    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> EagleCache:
        """Raises ValueError where the target's cache does not hold the states that this draft reads."""
        self.check_states(target)
        check_room(prompts, capacity, self.config.positions)
        cache = EagleCache(self.blocks, len(prompts), capacity, target)
        ids = pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True)
        if ids.shape[1]:
            self._forward(ids, self._known(cache, ids.shape[1]), cache)
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return cache

    @torch.inference_mode()
    def step(self, tokens: Int[Tensor, "batch new"], cache: EagleCache) -> Float[Tensor, "batch new vocab"]:
        new = tokens.shape[1]
        known = self.knows(cache.lengths, new, cache.target)
        return self.logits(self._forward(tokens, self._known(cache, new) if known else cache.own, cache))

    @torch.inference_mode()
    def propose(
        self,
        latest: Int[Tensor, "batch unread"],
        cache: EagleCache,
        uniform: Float[Tensor, "batch gamma"],
        sampling: Sampling,
        history: History | None,
    ) -> Drafted:
        """A block; where sampling knows the temperature alone, in two calls on a CPU that has them."""
        if self._drafting is None or not sampling.temperature or sampling != Sampling(sampling.temperature):
            return chain(lambda ids: self.step(ids, cache)[:, -1], self.token_ids, latest, uniform, sampling, history)
        new, more = latest.shape[1], uniform.shape[1] - 1
        if not self.knows(cache.lengths, new, cache.target):
            raise ValueError("a block begins where the target has been")
        cache.room(new + more)
        self._forward(latest, self._known(cache, new), cache)
        tokens, probs, cache.own = self._drafting.block(cache.own, cache, sampling.temperature, uniform)
        cache.lengths = cache.lengths + more
        return tokens, probs, None

    def _whole_blocks(self) -> Drafting | None:
        """What makes whole blocks, where all that it needs lies as it needs it."""
        llama = getattr(self._target, "llama", None)
        head = self._head or getattr(llama, "head", None)
        table = self._table if self._table is not None else getattr(llama, "table", None)
        if self._passes is None or not isinstance(head, Product) or table is None:
            return None
        if table.dtype not in (torch.float32, torch.bfloat16) or head.matrix.outputs > self.vocab_size:
            return None
        ids = self.token_ids(torch.arange(self.vocab_size))
        norms = self._state_norm, self._norm
        return self._passes.drafting(head, self._places, table, ids, *norms, self._normed_residual)

    def check_states(self, target: Any) -> None:
        """Raises ValueError where the target's cache does not hold the states that this draft reads."""
        if target is None or target.reads[: len(self.reads)] != self.reads:  # a rule's come after a draft's
            raise ValueError(f"this draft reads the target's states {self.reads}: prefill the target with them first")

    def knows(self, lengths: Int[Tensor, "batch"], new: int, target: Any) -> bool:
        """Whether the target has been where ``new`` tokens from ``lengths`` on are read; on the CPU, so nothing waits.

        Raises:
            ValueError: it has not, and there are several.
        """
        there = zip(lengths.tolist(), target.lengths.tolist(), strict=True)
        known = all(length + new - 1 <= reached for length, reached in there)
        if not known and new > 1:
            raise ValueError("a draft that reads the target drafts one token at a time")
        return known

    def states(
        self, hidden: Float[Tensor, "batch reads capacity width"], before: Int[Tensor, "batch new"]
    ) -> Float[Tensor, "batch new width"]:
        """What the target's states at these positions give, zero before the first one."""
        rows = torch.arange(len(hidden), device=self.device).unsqueeze(1)
        states = hidden[rows, : len(self.reads), before.clamp(min=0)] * (before >= 0)[..., None, None]
        return self._fuse(states.flatten(2).to(self.blocks.dtype))

    def through(
        self, ids: Int[Tensor, "batch new"], x: Float[Tensor, "batch new width"], span: Span, memory: Memory
    ) -> Float[Tensor, "batch new width"]:
        """The layer: its states, which stand in for the target's where that has not been."""
        blocks, layer = self.blocks, self._layer
        embedded = self._embed(ids)
        normed = blocks.rms(x, self._state_norm)
        read = torch.cat([blocks.rms(embedded, layer.attention_norm), normed], -1)
        x = (normed if self._normed_residual else x) + blocks.attend(layer, read, memory, span)
        return x + blocks.feed(layer, x)

    def logits(self, x: Float[Tensor, "batch new width"]) -> Float[Tensor, "batch new vocab"]:
        hidden = self.blocks.rms(x, self._norm) if self._passes is None else self._passes.rms(x, self._norm)
        if self._head is None:
            return self._target.head(hidden)
        logits = self._head(hidden).float()
        if self._places is None:
            return logits
        return logits.new_full((*logits.shape[:-1], self.vocab_size), -torch.inf).index_copy_(-1, self._places, logits)

    def _embed(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new width"]:
        if self._table is not None:
            return F.embedding(ids, self._table)
        return self._target.embed(ids).to(self.blocks.dtype)

    def _known(self, cache: EagleCache, new: int) -> Float[Tensor, "batch new width"]:
        if isinstance(self._fuse, Product) and cache.target.hidden.dtype in (torch.float32, torch.bfloat16):
            return self._fuse.of_states(cache.target.hidden, cache.lengths, new)
        before = (cache.lengths.unsqueeze(1) + torch.arange(new) - 1).to(self.device)
        return self.states(cache.target.hidden, before)

    def _forward(
        self, ids: Int[Tensor, "batch new"], x: Float[Tensor, "batch new width"], cache: EagleCache
    ) -> Float[Tensor, "batch new width"]:
        if self._passes is not None:
            cache.room(ids.shape[1])
            x = self._passes.reading(x, self._embed(ids), self._state_norm, self._normed_residual, cache)
        else:
            span = self.blocks.span(cache, ids.shape[1])
            [memory] = span.memories(cache.states, self.config.kv_heads)
            x = self.through(ids, x, span, memory)
        cache.lengths = cache.lengths + ids.shape[1]
        cache.own = x[:, -1:]
        return x

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self._target.token_ids(speech)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """The target's, but for an input table of its own."""
        if source == "input" and self._table is not None:
            return F.embedding(self.token_ids(torch.arange(self.vocab_size, device=self.device)), self._table).float()
        return self._target.embeddings(source)


def unnested(config: dict[str, Any]) -> dict[str, Any]:
    """What config.json says, where vllm-project/speculators has put a part of it under ``transformer_layer_config``."""
    layer = config.get("transformer_layer_config")
    return config if layer is None else Described({**config, **layer}, getattr(config, "file", Path("config.json")))


def states_read(config: dict[str, Any], layers: int, path: str) -> tuple[int, ...]:
    """The target's states that a head was trained on, as ``pcg.interfaces.TokenLM.prefill`` numbers them.

    Our folders say ``reads``. Of others ``eagle_aux_hidden_state_layer_ids`` is state i after i layers where it stands
    at the top, as vLLM and speculators mean it, and the state after layer i, one later, inside ``eagle_config``, as
    SGLang, SpecForge and ModelOpt do. Where nothing is said, three: early, middle and late.

    Raises:
        ValueError: states that the target has not; the last one, which is normed here and not there; both said.
    """
    inside = (config.get("eagle_config") or {}).get(_AUX)
    told = {"reads": config.get("reads"), _AUX: config.get(_AUX), f"eagle_config.{_AUX}": inside}
    said = {key: list(value) for key, value in told.items() if value}
    if not said:
        return 2, layers // 2, max(layers - 3, 0)
    as_states = {key: tuple(i + (key != "reads" and key != _AUX) for i in value) for key, value in said.items()}
    key, reads = next(iter(as_states.items()))
    if len(set(as_states.values())) > 1:
        raise ValueError(f"draft {path}: config.json names other states in {' than in '.join(said)}: leave one")
    last = layers if key == "reads" else layers - 1
    wrong = [i for i in reads if not 0 <= i <= last]
    if wrong:
        raise ValueError(f"draft {path}: config.json has {key}={said[key]}; states 0 to {last} can be read")
    return reads


def _check_target(checkpoint: Checkpoint, config: LlamaConfig, target: Readable, path: str) -> None:
    """Raises ValueError: one layer, the target's width, and where the folder names its target, that one; nothing of a
    computation that is not this one."""
    said = {**(checkpoint.config.get("eagle_config") or {}), **checkpoint.config}
    others = [f"{key}={said[key]!r}" for key, value in _COMPUTED.items() if bool(said.get(key, value)) != value]
    if others:
        raise ValueError(f"draft {path}: config.json has {', '.join(others)}, which is not computed here")
    if "transformer_layer_config" in said and "norm_before_residual" not in said:
        raise ValueError(
            f"draft {path}: config.json is of speculators' format and does not say norm_before_residual, which vLLM "
            "then takes for true: add the one that it was trained with"
        )
    if config.layers != 1:
        raise ValueError(f"draft {path}: has {config.layers} layers; an EAGLE-3 head has 1")
    if config.width != target.width:
        raise ValueError(f"draft {path}: reads states of width {config.width}, the target's are {target.width} wide")
    meant = checkpoint.config.get("target_fingerprint")
    if meant is not None and meant != target.fingerprint:
        raise ValueError(
            f"draft {path}: was trained on the target with fingerprint {meant}, this one's is {target.fingerprint}: "
            "choose that target, or train the draft for this one (trainer=eagle)"
        )


def _own_table(checkpoint: Checkpoint, config: LlamaConfig, blocks: Blocks) -> Float[Tensor, "rows width"] | None:
    """The folder's own embeddings; None where it reads the target's."""
    if "embed_tokens.weight" not in checkpoint:
        return None
    return checkpoint.tensor("embed_tokens.weight", (config.vocab, config.width)).to(blocks.device, blocks.dtype)


def _own_head(
    checkpoint: Checkpoint, config: LlamaConfig, target: Readable, blocks: Blocks
) -> tuple[Any, Int[Tensor, "rows"] | None]:
    """The folder's own output rows of the speech vocabulary, and their places in it where some are missing."""
    ids = draft_ids(checkpoint, config)
    if "lm_head.weight" not in checkpoint:
        return None, None
    row_of = {token: row for row, token in enumerate(ids.tolist())}
    speech = target.token_ids(torch.arange(target.vocab_size, device=blocks.device)).tolist()
    places = [place for place, token in enumerate(speech) if token in row_of]
    if not [place for place in places if place != target.end]:
        raise ValueError(f"{checkpoint.folder}: none of the {len(ids)} ids of its draft vocabulary is a speech token")
    rows = torch.tensor([row_of[speech[place]] for place in places])
    head = blocks.linear(checkpoint.tensor("lm_head.weight", (len(ids), config.width))[rows])
    return head, None if len(places) == len(speech) else torch.tensor(places, device=blocks.device)


def draft_ids(checkpoint: Checkpoint, config: LlamaConfig) -> Int[Tensor, "rows"]:
    """The target's id of each row of the folder's own head.

    Raises:
        ValueError: a smaller vocabulary without ``d2t`` or without a head; a ``d2t`` that leads beyond the vocabulary,
            to one id twice, or elsewhere than ``t2d``.
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
    ids = torch.arange(count) + checkpoint.tensor("d2t", (count,))  # how far each lies below the target's id
    outside = ids[(ids < 0) | (ids >= config.vocab)]
    if len(outside):
        raise ValueError(
            f"{folder}: d2t leads to id {int(outside[0])}, beyond the vocabulary of {config.vocab}: row i is of id "
            "i + d2t[i], so d2t holds offsets, no ids"
        )
    if len(ids.unique()) < count:
        raise ValueError(f"{folder}: d2t leads {count} rows to {len(ids.unique())} ids: each row must have its own")
    if "t2d" in checkpoint and checkpoint.tensor("t2d", None).nonzero().flatten().tolist() != sorted(ids.tolist()):
        raise ValueError(f"{folder}: d2t and t2d name different ids: fetch the head again")
    return ids
