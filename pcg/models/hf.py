"""Any causal language model of transformers, with transformers' own cache.

Slower than ``pcg.models.llama``: every pass goes through transformers' modelling code, the whole output head is
computed, and tokens that were rolled back in one row but not in another stay in the cache and are masked out.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from pcg.models.cache import check_room
from pcg.models.checkpoint import (
    Checkpoint,
    Dtype,
    check_finite,
    dtype_of,
    is_harmless,
    resolve_folder,
    unread_tensors,
)
from pcg.models.decoder import refuse_window
from pcg.models.footprint import footprint
from pcg.models.text_side import TextSide, check_ids
from pcg.types import Utterance


class HfCache:
    """Transformers' cache, where every pass adds a column to all rows, with a mask of the columns valid in each row.

    A row's tokens are its valid columns, in order; positions count these. Where ``lengths`` was set lower, the last
    valid columns of the row become invalid at the next pass, and trailing columns that no row needs are removed.
    """

    lengths: Int[Tensor, "batch"]

    def __init__(self, hidden: Float[Tensor, "batch reads capacity width"], reads: tuple[int, ...]) -> None:
        """``hidden``: zeros, for the states that a draft reads, by position."""
        from transformers import DynamicCache

        batch = len(hidden)
        self.past = DynamicCache()
        self.valid: Bool[Tensor, "batch columns"] = torch.zeros(batch, 0, dtype=torch.bool, device=hidden.device)
        self.lengths = torch.zeros(batch, dtype=torch.int64)
        self.hidden, self.reads = hidden, reads

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        on_device = rows.to(self.valid.device)
        self.past.batch_select_indices(on_device)
        self.valid, self.lengths, self.hidden = self.valid[on_device], self.lengths[rows.cpu()], self.hidden[on_device]

    def roll_back(self) -> None:
        """Bring the columns in line with ``lengths``."""
        self.valid = self.valid & (self.valid.cumsum(1) <= self.lengths.to(self.valid.device).unsqueeze(1))
        used = self.valid.any(0).nonzero()
        unused = self.valid.shape[1] - (int(used[-1]) + 1 if len(used) else 0)
        if unused:
            self.past.crop(-unused)
            self.valid = self.valid[:, : self.valid.shape[1] - unused]

    def append(self, new: Bool[Tensor, "batch new"]) -> None:
        self.valid = torch.cat([self.valid, new], 1)
        self.lengths = self.valid.sum(1).cpu()


def cache_argument(forward: Callable[..., Any]) -> str:
    """The name of ``forward``'s cache argument: ``cache``, or before transformers 5.24 ``past_key_values``.

    Raises:
        ValueError: it takes neither, so the model does not keep its past in keys and values.
    """
    takes = inspect.signature(forward).parameters
    for name in ("cache", "past_key_values"):
        if name in takes:
            return name
    raise ValueError(f"the model takes no cache of keys and values; its arguments are {', '.join(takes)}")


class CausalLM:
    """A ``TokenLM`` made of a causal language model of transformers.

    The model must take ``position_ids`` (as those with rotary embeddings do) and attend to its whole past.

    Args:
        model: with its weights.
        text: its text side.
        path: its name in error messages.
        device: a torch device.

    Raises:
        ValueError: the model has no cache of keys and values, or the text side has ids beyond its rows.
    """

    reads: tuple[int, ...] = ()

    def __init__(self, model: Any, text: TextSide, path: str, device: str | torch.device) -> None:
        self.device, self.text, self._model = torch.device(device), text, model
        self._model.eval().requires_grad_(False).to(self.device)
        self._cache_argument = cache_argument(self._model.forward)
        self.vocab_size = len(text.speech_ids)
        self.end = self.vocab_size - 1
        self._speech_ids = text.speech_ids.to(self.device)
        self.width, self.layers = self._model.config.hidden_size, self._model.config.num_hidden_layers
        check_ids(path, text.speech_ids, self._model.config.vocab_size)

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return self.text.prompt(utterance, prompt_tokens).to(self.device)

    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> HfCache:
        """``capacity`` is that of the hidden states; the rest of the cache grows as needed."""
        config = self._model.config
        check_room(prompts, capacity, getattr(config, "max_position_embeddings", None) or capacity)
        hidden = torch.zeros(
            len(prompts), len(reads), capacity if reads else 0, config.hidden_size,
            dtype=self._model.dtype, device=self.device,
        )  # fmt: skip
        cache = HfCache(hidden, reads)
        ids = pad_sequence([prompt[:-1] for prompt in prompts], batch_first=True)
        lengths = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        if ids.shape[1]:
            self._forward(ids, torch.arange(ids.shape[1], device=self.device) < lengths.unsqueeze(1), cache)
        return cache

    def step(self, tokens: Int[Tensor, "batch new"], cache: HfCache) -> Float[Tensor, "batch new vocab"]:
        cache.roll_back()
        return self._forward(tokens, torch.ones_like(tokens, dtype=torch.bool), cache)[..., self._speech_ids].float()

    @torch.inference_mode()
    def _forward(
        self, ids: Int[Tensor, "batch new"], real: Bool[Tensor, "batch new"], cache: HfCache
    ) -> Float[Tensor, "batch new rows"]:
        """Append ``ids``; those that are not ``real`` are padding."""
        positions = cache.lengths.to(self.device).unsqueeze(1) + real.cumsum(1) - 1
        cache.append(real)
        output: Any = self._model(
            input_ids=ids, attention_mask=cache.valid.long(), position_ids=positions.clamp(min=0),
            use_cache=True, output_hidden_states=bool(cache.reads), **{self._cache_argument: cache.past},
        )  # fmt: skip
        if cache.reads:
            states = torch.stack([output.hidden_states[depth] for depth in cache.reads], 2)
            rows, columns = real.nonzero(as_tuple=True)
            cache.hidden[rows, :, positions[rows, columns]] = states[rows, columns]
        return output.logits

    def embed(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new width"]:
        return self._model.get_input_embeddings()(ids)

    def head(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        return self._model.get_output_embeddings()(hidden)[..., self._speech_ids].float()

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return self._speech_ids.take(speech)

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """Raises ValueError for a source other than ``input`` and ``output``."""
        tables = {"input": self._model.get_input_embeddings, "output": self._model.get_output_embeddings}
        if source not in tables:
            raise ValueError(f"embedding source {source!r} does not exist; choose input or output")
        return tables[source]().weight.detach()[self._speech_ids].float()


def pretrained(make: Any, checkpoint: Checkpoint, dtype: torch.dtype) -> Any:
    """A model of transformers that holds exactly the tensors of a folder.

    Args:
        make: a class with ``from_pretrained``.

    Raises:
        ValueError: the folder has tensors that the model does not use, lacks some that it needs, has one in two shards,
            or has numbers that are not finite.
    """
    folder = checkpoint.folder
    if twice := checkpoint.twice:
        name, shards = next(iter(twice.items()))
        raise ValueError(
            f"{folder}: {name} is in both {' and '.join(shards)}, and transformers does not look up in the index which "
            "one counts: save the folder again, or use target=hf if its architecture is supported there"
        )
    model, report = make.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    unread = sorted(name for name in report["unexpected_keys"] if not is_harmless(name))
    if unread:
        raise ValueError(f"{folder}: {unread_tensors(unread)}")
    if missing := sorted(report["missing_keys"]):
        shown = ", ".join(missing[:4]) + (f" and {len(missing) - 4} more" if len(missing) > 4 else "")
        raise ValueError(f"{folder} lacks the tensors {shown}: fetch it again, or correct its config.json")
    for name, weight in model.named_parameters():
        check_finite(f"{folder}: {name}", weight)
    return model.eval().requires_grad_(False)


class HfLM(CausalLM):
    """Any ``AutoModelForCausalLM`` from its folder. Code in the folder is never run.

    Args:
        path: a Hugging Face folder, or a hub id.
        text: its text side.

    Raises:
        ValueError: as ``CausalLM`` and ``pretrained``, and where the model attends only to a window of its past.
    """

    footprint = staticmethod(footprint)  # of a Llama; other architectures take about as much

    def __init__(self, path: str, text: TextSide, dtype: Dtype, device: str | torch.device) -> None:
        from transformers import AutoModelForCausalLM

        folder = resolve_folder(path)
        checkpoint = Checkpoint(folder)
        refuse_window(checkpoint.config, folder)
        self.fingerprint = checkpoint.fingerprint
        super().__init__(pretrained(AutoModelForCausalLM, checkpoint, dtype_of(dtype)), text, path, device)
