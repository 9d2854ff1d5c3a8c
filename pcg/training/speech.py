"""A speech language model in training: a Llama over phonemes and audio tokens, in LLaSA's format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import lightning as L
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from pcg.codecs.fsq import FSQ
from pcg.models.checkpoint import read_json, read_tensors, resolve_folder
from pcg.training.attention import prefer_products
from pcg.training.fit import Stage, optimizers, take_step
from pcg.training.growth import grown
from pcg.training.sequences import AUDIO_OFFSET, MARKERS


class SpeechLM(L.LightningModule):
    """A Llama whose two token tables are TokenTables, with one attention head guided along the text.

    Guidance (Tachibana et al., arXiv 1710.08969, as a likelihood) is minus the logarithm of that head's attention near
    the place that an even pace would give, so that text and speech align within minutes instead of hours.

    Args:
        llama: arguments of transformers' LlamaConfig, less the vocabulary.
        levels: FSQ levels of the codec.
        guide_layer: the layer whose first head is guided.
        guide: weight of the guidance at the start; it falls linearly to a tenth over the first half.
        guide_width: standard deviation of "near", in phonemes.
        stage: the settings of its training; None for a model that another module trains.
    """

    trained: Tensor

    def __init__(
        self,
        llama: dict[str, Any],
        levels: list[int],
        guide_layer: int = 0,
        guide: float = 0.0,
        guide_width: float = 1.0,
        stage: Stage | None = None,
    ) -> None:
        super().__init__()
        from transformers import LlamaConfig, LlamaForCausalLM

        self.automatic_optimization = False
        self.table = TokenTable(levels, llama["hidden_size"], 0.5)
        self.head = TokenTable(levels, llama["hidden_size"], 0.02)
        vocabulary = AUDIO_OFFSET + FSQ(levels).size
        config = LlamaConfig(
            vocab_size=vocabulary, bos_token_id=1, eos_token_id=MARKERS["speech_end"], pad_token_id=0, **llama
        )
        self.llama = LlamaForCausalLM(config)
        for unread in (self.llama.get_input_embeddings(), self.llama.get_output_embeddings()):
            unread.requires_grad_(False)  # not used; several devices would wait for their gradients
        prefer_products(self.llama)
        self.guide_layer, self.guide, self.guide_width = guide_layer, guide, guide_width
        self.stage = stage
        self._captured: dict[str, Tensor] = {}
        attention = self.llama.model.layers[guide_layer].self_attn
        for name in ("q_proj", "k_proj"):
            getattr(attention, name).register_forward_hook(
                lambda _m, _i, out, name=name: self._captured.update({name: out})
            )
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        assert self.stage is not None
        norms = [p for p in self.llama.model.parameters() if p.ndim == 1]
        rest = [*self.table.parameters(), *self.head.parameters(), *norms]
        return optimizers(self.matrices(), rest, self.stage.learning_rate)

    def matrices(self) -> list[nn.Parameter]:
        """The parameters that Muon trains."""
        return [p for p in self.llama.model.layers.parameters() if p.ndim == 2]

    def hidden(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        return self.llama.model(inputs_embeds=self.table()[ids], use_cache=False).last_hidden_state

    def logits(self, hidden: Float[Tensor, "positions width"]) -> Float[Tensor, "positions speech"]:
        return (hidden @ speech_rows(self.head()).T).float()

    def loss(self, ids: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of speech tokens (end-of-speech included) and the guidance, both in nats a token."""
        hidden = self.hidden(ids)[:, :-1]
        goal = ids[:, 1:]
        speech = (goal >= AUDIO_OFFSET) | (goal == MARKERS["speech_end"])
        logits = self.logits(hidden[speech])
        target = torch.where(goal == MARKERS["speech_end"], logits.shape[-1] - 1, goal - AUDIO_OFFSET)[speech]
        return nn.functional.cross_entropy(logits, target), self._guidance(centre)

    def _guidance(self, centre: Float[Tensor, "batch length"]) -> Tensor:
        """Minus the logarithm of the guided head's attention around the phoneme that the *next* token speaks."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        size: int = self.llama.config.head_dim  # type: ignore[assignment]
        query, key = (self._captured[n][..., :size].unsqueeze(1) for n in ("q_proj", "k_proj"))
        positions = torch.arange(centre.shape[1], device=centre.device)
        query, key = apply_rotary_pos_emb(query, key, *self.llama.model.rotary_emb(query, positions[None]))
        ahead = centre[:, 1:]
        speech = ahead >= 0
        scores = (query[:, 0, :-1] @ key[:, 0, :-1].transpose(1, 2)).float() * size**-0.5
        scores = scores.masked_fill(positions[None, :-1] > positions[:-1, None], -torch.inf)
        near = -(((positions[:-1] - ahead.unsqueeze(-1)) / self.guide_width) ** 2) / 2
        mass = (scores.log_softmax(-1) + near).logsumexp(-1)
        return -mass[speech].mean()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        assert self.stage is not None
        loss, guidance = self.loss(*batch)
        weight = self.guide * max(0.1, 1 - 1.8 * int(self.trained) / self.stage.steps)
        take_step(self, loss + weight * guidance, self.stage, largest_gradient=1.0)
        if self.trained % 50 == 0:
            self.log_dict({"loss": loss.detach(), "guidance": guidance.detach()})

    def start_from(self, folder: str, phonemes: dict[str, int]) -> None:
        """Takes the weights of an exported folder: rows of its tables become the free vectors, vectors of digits are 0.

        A model of fewer layers or heads is grown to this model's.

        Raises:
            ValueError: the folder has other token ids, or sizes that cannot be grown to this model's.
        """
        source = _folder(folder, phonemes)
        state = read_tensors(source / "model.safetensors")
        for table, name in ((self.table, "model.embed_tokens.weight"), (self.head, "lm_head.weight")):
            rows = state[name].float()
            with torch.no_grad():
                table.by_digit.zero_()
                table.other.copy_(rows[:AUDIO_OFFSET])
                table.free.copy_(rows[AUDIO_OFFSET:])
        try:
            self.llama.load_state_dict(grown(state, self.llama.config))
        except RuntimeError as error:
            raise ValueError(f"{source} does not fit trainer.llama: {error}") from error

    def export(self, folder: Path, phonemes: dict[str, int]) -> None:
        """Writes a Hugging Face Llama folder in float16, with ``tokens.json``."""
        state = {k: v.detach().half().cpu().contiguous() for k, v in self.llama.state_dict().items()}
        state["model.embed_tokens.weight"] = self.table().detach().half().cpu()
        head = self.head().detach().half().cpu()
        head[:AUDIO_OFFSET] *= (torch.arange(AUDIO_OFFSET) == MARKERS["speech_end"])[:, None]  # text is never sampled
        state["lm_head.weight"] = head
        self.llama.save_pretrained(folder, state_dict=state)
        config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        audio = self.table.digits.shape[0]
        layout = {"markers": MARKERS, "phonemes": phonemes, "audio_offset": AUDIO_OFFSET, "audio_tokens": audio}
        (folder / "tokens.json").write_text(json.dumps(layout, indent=1, ensure_ascii=False) + "\n")


def speech_rows(table: Float[Tensor, "vocab width"]) -> Float[Tensor, "speech width"]:
    """The rows of the speech vocabulary: audio tokens, then end-of-speech."""
    return torch.cat([table[AUDIO_OFFSET:], table[MARKERS["speech_end"], None]])


def _folder(path: str, phonemes: dict[str, int]) -> Path:
    folder = resolve_folder(path)
    if read_json(folder / "tokens.json")["phonemes"] != phonemes:
        raise ValueError(f"{folder} has other phoneme ids than this token corpus")
    return folder


class TokenTable(nn.Module):
    """A (vocabulary, width) table whose audio rows are the sum of vectors of their FSQ digits and a free vector.

    Rows that share digits share these vectors, so rare codes learn from common ones. The audio rows are kept centred: a
    common component carries no information and would dominate the cosines that groups are made from.
    """

    digits: Tensor

    def __init__(self, levels: list[int], width: int, scale: float) -> None:
        super().__init__()
        fsq = FSQ(levels)
        digits = torch.arange(fsq.size)[:, None] // fsq.radix % fsq.levels + torch.arange(len(levels)) * max(levels)
        self.register_buffer("digits", digits, persistent=False)
        self.by_digit = nn.Parameter(torch.randn(len(levels) * max(levels), width) * scale / len(levels) ** 0.5)
        self.free = nn.Parameter(torch.randn(fsq.size, width) * scale * 0.2)
        self.other = nn.Parameter(torch.randn(AUDIO_OFFSET, width) * scale)

    def forward(self) -> Float[Tensor, "vocab width"]:
        audio = nn.functional.embedding_bag(self.digits, self.by_digit, mode="sum") + self.free
        return torch.cat([self.other, audio - audio.mean(0)])
