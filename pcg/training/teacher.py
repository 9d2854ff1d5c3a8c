"""The frozen target that a draft is trained on, run by transformers over whole sequences."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.groups.by_slot import BySlot
from pcg.groups.table import GroupBuilder, GroupTable
from pcg.models.checkpoint import Checkpoint, Dtype, dtype_of, resolve_folder
from pcg.models.hf import pretrained
from pcg.training.attention import prefer_products


class Teacher:
    """The frozen target: computes the hidden states and the speech logits of a batch.

    Args:
        path: folder of a causal language model.
        speech_ids: its ids of the speech vocabulary.
        slots: tokens in a frame; groups never mix slots.
    """

    def __init__(self, path: str, speech_ids: Int[Tensor, "vocab"], dtype: Dtype = "float32", slots: int = 1) -> None:
        from transformers import AutoModelForCausalLM

        self.folder = resolve_folder(path)
        checkpoint = Checkpoint(self.folder)
        self.fingerprint = checkpoint.fingerprint
        self.model = model = pretrained(AutoModelForCausalLM, checkpoint, dtype_of(dtype))
        prefer_products(self.model)
        self.speech_ids, self.slots = speech_ids, slots
        self._rows = model.get_output_embeddings().weight[speech_ids]
        self.hidden: tuple[Tensor, ...] = ()

    def read(self, ids: Int[Tensor, "batch length"]) -> None:
        """Runs the target over a batch; ``hidden`` then holds the states after each layer, the last one normed."""
        self.model.to(ids.device)
        self._rows = self._rows.to(ids.device)
        with torch.no_grad():
            self.hidden = self.model.base_model(input_ids=ids, use_cache=False, output_hidden_states=True).hidden_states

    def embed(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        return self.model.get_input_embeddings()(ids)

    def logits(self, hidden: Float[Tensor, "positions width"]) -> Float[Tensor, "positions vocab"]:
        return (hidden @ self._rows.to(hidden.dtype).T).float()

    def spoken(self, ids: Int[Tensor, "batch length"]) -> Bool[Tensor, "batch ahead"]:
        """Marks the positions whose next id is a speech token; a draft is trained at these."""
        is_speech = torch.zeros(self.model.config.vocab_size, dtype=torch.bool, device=ids.device)
        is_speech[self.speech_ids.to(ids.device)] = True
        return is_speech[ids[:, 1:]]

    def groups(self, builder: GroupBuilder) -> GroupTable:
        """The builder's groups over the target's input table; end-of-speech is a group of its own."""
        rows = self.model.get_input_embeddings().weight[self.speech_ids].float()
        groupable = torch.ones(len(rows), dtype=torch.bool)
        groupable[-1] = False
        return (builder if self.slots == 1 else BySlot(builder, self.slots)).build(rows, groupable)
