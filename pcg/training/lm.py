"""Trains the bundled target and draft: Llama decoders over phonemes and audio tokens, in LLaSA's shape.

A training sequence is one utterance or two of the same speaker, end to end:
``text_start phonemes text_end speech_start audio speech_end``. Two utterances teach the model to go on in the
voice of the first, which is all that a voice prompt is. Only the speech is learnt.
"""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from jaxtyping import Bool, Float, Int
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from pcg.codecs.fsq import FSQ
from pcg.models.checkpoint import read_json, resolve_folder
from pcg.ranges import ABOVE_0, FROM_1, Ranges
from pcg.training.audio import shards
from pcg.training.codec import schedule
from pcg.training.fit import fit, resumed_at

log = logging.getLogger(__name__)

MARKERS = {"text_start": 1, "text_end": 2, "speech_start": 3, "speech_end": 4}
AUDIO_OFFSET = 64  # ids below it are markers and phonemes; id 0 pads
_IGNORE = -100


@dataclass(frozen=True)
class Spoken:
    """One utterance of the token corpus."""

    phonemes: str
    tokens: list[int]


def read_tokens(folder: str, split: str) -> dict[str, list[Spoken]]:
    """Utterances by speaker."""
    import datasets

    by_speaker: dict[str, list[Spoken]] = {}
    for shard in shards(folder, split):
        for row in datasets.Dataset.from_parquet(str(shard), keep_in_memory=True):
            by_speaker.setdefault(row["speaker"], []).append(Spoken(row["phonemes"], row["tokens"]))
    return by_speaker


@dataclass(frozen=True)
class Sequence:
    """Token ids, and where each speech position should look in the text (-1: not speech)."""

    ids: list[int]
    centre: list[float]


def join(utterances: list[Spoken], phoneme_ids: dict[str, int]) -> Sequence:
    """One training sequence; the centre runs along each utterance's own phonemes at its own pace."""
    text = [phoneme_ids[c] for c in " ".join(u.phonemes for u in utterances)]
    ids = [MARKERS["text_start"], *text, MARKERS["text_end"], MARKERS["speech_start"]]
    centre, start = [-1.0] * len(ids), 1
    for u in utterances:
        ids += [AUDIO_OFFSET + t for t in u.tokens]
        centre += [start + len(u.phonemes) * (i + 0.5) / len(u.tokens) for i in range(len(u.tokens))]
        start += len(u.phonemes) + 1
    return Sequence([*ids, MARKERS["speech_end"]], [*centre, -1.0])


class Batches(IterableDataset):
    """Endless batches of sequences of like length, padded right: ids and centres of shape (batch, length)."""

    def __init__(
        self, speakers: dict[str, list[Spoken]], phonemes: dict[str, int], tokens: int, single: float, seed: int
    ) -> None:
        self.speakers, self.phonemes, self.tokens, self.single, self.seed = speakers, phonemes, tokens, single, seed

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        rng = random.Random(self.seed)
        while True:
            epoch = self._epoch(rng)
            for start in range(0, len(epoch), 1024):
                pool = sorted(
                    epoch[start : start + 1024], key=lambda us: sum(len(u.tokens) + len(u.phonemes) for u in us)
                )
                batches = list(self._cut([join(us, self.phonemes) for us in pool]))
                rng.shuffle(batches)
                yield from map(pad, batches)

    def _epoch(self, rng: random.Random) -> list[list[Spoken]]:
        out = []
        for spoken in self.speakers.values():
            order = rng.sample(spoken, len(spoken))
            while order:
                count = 1 if rng.random() < self.single else 2
                out.append([order.pop() for _ in range(min(count, len(order)))])
        rng.shuffle(out)
        return out

    def _cut(self, pool: list[Sequence]) -> Iterator[list[Sequence]]:
        batch: list[Sequence] = []
        for sequence in pool:  # sorted: the newest is the longest
            if batch and len(sequence.ids) * (len(batch) + 1) > self.tokens:
                yield batch
                batch = []
            batch.append(sequence)
        yield batch


def pad(batch: list[Sequence]) -> tuple[Int[Tensor, "batch length"], Float[Tensor, "batch length"]]:
    longest = max(len(s.ids) for s in batch)
    ids = torch.tensor([s.ids + [0] * (longest - len(s.ids)) for s in batch])
    centre = torch.tensor([s.centre + [-1.0] * (longest - len(s.centre)) for s in batch])
    return ids, centre


class TokenTable(nn.Module):
    """A (vocabulary, width) table whose audio rows are the sum of their FSQ digits' vectors and a free vector.

    Rows that share digits start alike, so rare codes learn from common ones. The audio rows are kept centred:
    a common component would carry no information and would drown the cosines that groups are made from.
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


class SpeechLM(L.LightningModule):
    """A Llama whose two token tables are TokenTables, with one attention head guided along the text.

    The guided head (Tachibana et al., arXiv 1710.08969, as a likelihood): minus the log of the attention mass
    near where an even pace would be, so that text and speech align within minutes instead of hours.

    Args:
        llama: arguments of transformers' LlamaConfig, less the vocabulary.
        levels: FSQ levels of the codec.
        guide_layer: layer whose first head is guided.
        guide: weight of the guidance at the start; falls linearly to a tenth over the first half.
        guide_width: standard deviation of "near", in phonemes.
        steps, learning_rate: of the schedule; Muon for the blocks' matrices, AdamW for the rest.
    """

    trained: Tensor

    def __init__(
        self,
        llama: dict[str, Any],
        levels: list[int],
        guide_layer: int,
        guide: float,
        guide_width: float,
        steps: int,
        learning_rate: float,
    ) -> None:
        super().__init__()
        from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM

        self.automatic_optimization = False
        self.table = TokenTable(levels, llama["hidden_size"], 0.5)
        self.head = TokenTable(levels, llama["hidden_size"], 0.02)
        vocabulary = AUDIO_OFFSET + FSQ(levels).size
        config = LlamaConfig(
            vocab_size=vocabulary, bos_token_id=1, eos_token_id=MARKERS["speech_end"], pad_token_id=0, **llama
        )
        self.llama = LlamaForCausalLM(config)
        if not torch.cuda.is_available():
            AttentionInterface.register("products", _products)
            self.llama.set_attn_implementation("products")
        self.guide_layer, self.guide, self.guide_width = guide_layer, guide, guide_width
        self.steps, self.rate = steps, learning_rate
        self._teacher: list[Any] = []  # in a list, for it is neither trained nor saved
        self._captured: dict[str, Tensor] = {}
        attention = self.llama.model.layers[guide_layer].self_attn
        for name in ("q_proj", "k_proj"):
            getattr(attention, name).register_forward_hook(
                lambda _m, _i, out, name=name: self._captured.update({name: out})
            )
        self.register_buffer("trained", torch.zeros((), dtype=torch.int64))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        blocks = [p for p in self.llama.model.layers.parameters() if p.ndim == 2]
        norms = [p for p in self.llama.model.parameters() if p.ndim == 1]
        rest = [*self.table.parameters(), *self.head.parameters(), *norms]
        muon = torch.optim.Muon(blocks, self.rate, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
        return [muon, torch.optim.AdamW(rest, self.rate, betas=(0.9, 0.98), weight_decay=0.0)]

    def hidden(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length width"]:
        return self.llama.model(inputs_embeds=self.table()[ids], use_cache=False).last_hidden_state

    def loss(self, ids: Tensor, centre: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross-entropy of the speech (end-of-speech included), and the guidance, both in nats a token.

        What is learnt is the corpus, or with a teacher the teacher's whole distribution of each token.
        """
        hidden = self.hidden(ids)[:, :-1]
        goal = ids[:, 1:]
        speech = (goal >= AUDIO_OFFSET) | (goal == MARKERS["speech_end"])
        logits = (hidden[speech] @ _speech_rows(self.head()).T).float()
        if self._teacher:
            target = self._taught(ids, speech)
        else:
            target = torch.where(goal == MARKERS["speech_end"], logits.shape[-1] - 1, goal - AUDIO_OFFSET)[speech]
        return nn.functional.cross_entropy(logits, target), self._guidance(centre)

    @torch.no_grad()
    def _taught(
        self, ids: Int[Tensor, "batch length"], speech: Bool[Tensor, "batch ahead"]
    ) -> Float[Tensor, "speech vocab"]:
        [teacher] = self._teacher
        teacher.to(ids.device)
        hidden = teacher.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1][speech]
        return (hidden @ _speech_rows(teacher.lm_head.weight).T).float().softmax(-1)

    def learn_from(self, folder: str, phonemes: dict[str, int]) -> None:
        """Take a trained model as teacher (distillation for drafts: Zhou et al. 2023, arXiv 2310.08461).

        Raises:
            ValueError: the folder has other token ids.
        """
        from transformers import LlamaForCausalLM

        self._teacher = [LlamaForCausalLM.from_pretrained(_folder(folder, phonemes), dtype=torch.float32).eval()]

    def _guidance(self, centre: Float[Tensor, "batch length"]) -> Tensor:
        """-log of the guided head's attention mass around the phoneme that the *next* token speaks."""
        from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

        size: int = self.llama.config.head_dim  # type: ignore[assignment]
        query, key = (self._captured[n][..., :size].unsqueeze(1) for n in ("q_proj", "k_proj"))
        places = torch.arange(centre.shape[1], device=centre.device)
        query, key = apply_rotary_pos_emb(query, key, *self.llama.model.rotary_emb(query, places[None]))
        ahead = centre[:, 1:]
        speech = ahead >= 0
        scores = (query[:, 0, :-1] @ key[:, 0, :-1].transpose(1, 2)).float() * size**-0.5
        scores = scores.masked_fill(places[None, :-1] > places[:-1, None], -torch.inf)
        near = -(((places[:-1] - ahead.unsqueeze(-1)) / self.guide_width) ** 2) / 2
        mass = (scores.log_softmax(-1) + near).logsumexp(-1)
        return -mass[speech].mean()

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        step = int(self.trained)
        optimizers = self.optimizers()
        for optimizer in optimizers:  # type: ignore[union-attr]
            optimizer.param_groups[0]["lr"] = self.rate * schedule(step, self.steps)
            optimizer.zero_grad()
        loss, guidance = self.loss(*batch)
        weight = self.guide * max(0.1, 1 - 1.8 * step / self.steps)
        self.manual_backward(loss + weight * guidance)
        nn.utils.clip_grad_norm_(self.parameters(), 1.0)
        for optimizer in optimizers:  # type: ignore[union-attr]
            optimizer.step()
        self.trained += 1
        if self.trained % 50 == 0:
            self.log_dict({"loss": loss.detach(), "guidance": guidance.detach()})

    def start_from(self, folder: str, phonemes: dict[str, int]) -> None:
        """Take the weights of an exported folder: the free vectors take the whole rows, the digits' start at zero.

        A folder of fewer layers or heads is grown to this model's.

        Raises:
            ValueError: the folder has other token ids or sizes that do not grow to this model's.
        """
        place = _folder(folder, phonemes)
        state = load_file(place / "model.safetensors")
        for table, name in ((self.table, "model.embed_tokens.weight"), (self.head, "lm_head.weight")):
            rows = state[name].float()
            with torch.no_grad():
                table.by_digit.zero_()
                table.other.copy_(rows[:AUDIO_OFFSET])
                table.free.copy_(rows[AUDIO_OFFSET:])
        try:
            self.llama.load_state_dict(self._grown(state))
        except RuntimeError as error:
            raise ValueError(f"{place} does not fit trainer.llama: {error}") from error

    def _grown(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights of a model of fewer layers or heads as those of this one, the same function.

        Layer i takes old layer ``i * old // new``; a second taker adds nothing at first, as its two output
        matrices are zero. (Growth that keeps the function: Net2Net, arXiv 1511.05641.)
        """
        config = self.llama.config
        old, new = 1 + max(int(name.split(".")[2]) for name in state if ".layers." in name), config.num_hidden_layers
        sources = [i * old // new for i in range(new)]
        grown = {name: value.float() for name, value in state.items() if ".layers." not in name}
        for i, source in enumerate(sources):
            prefix = f"model.layers.{source}."
            for name, value in state.items():
                if not name.startswith(prefix):
                    continue
                part = name.removeprefix(prefix)
                value = self._more_heads(part, value.float())
                if source in sources[:i] and part in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
                    value = torch.zeros_like(value)
                grown[f"model.layers.{i}.{part}"] = value
        return grown

    def _more_heads(self, part: str, weight: Tensor) -> Tensor:
        """Repeat the heads of an attention matrix; a repeated query head begins at random and unheard."""
        config = self.llama.config
        size: int = config.head_dim  # type: ignore[assignment]
        match part.split(".")[-2]:
            case "k_proj" | "v_proj":
                heads = weight.unflatten(0, (-1, size))
                return heads.repeat_interleave((config.num_key_value_heads or 1) // len(heads), 0).flatten(0, 1)
            case "q_proj":
                grown = torch.randn(config.num_attention_heads, size, weight.shape[1]) * weight.std()
                heads = weight.unflatten(0, (-1, size))
                grown[:: len(grown) // len(heads)] = heads
                return grown.flatten(0, 1)
            case "o_proj":
                grown = torch.zeros(weight.shape[0], config.num_attention_heads, size)
                heads = weight.unflatten(1, (-1, size))
                grown[:, :: grown.shape[1] // heads.shape[1]] = heads
                return grown.flatten(1)
        return weight

    def export(self, folder: Path, phonemes: dict[str, int]) -> None:
        """Write a plain Hugging Face Llama folder in float16, with ``tokens.json``."""
        state = {k: v.detach().half().cpu().contiguous() for k, v in self.llama.state_dict().items()}
        state["model.embed_tokens.weight"] = self.table().detach().half().cpu()
        head = self.head().detach().half().cpu()
        head[:AUDIO_OFFSET] *= (torch.arange(AUDIO_OFFSET) == MARKERS["speech_end"])[:, None]  # text is never spoken
        state["lm_head.weight"] = head
        self.llama.save_pretrained(folder, state_dict=state)
        config = json.loads((folder / "config.json").read_text()) | {"dtype": "float16"}
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
        audio = self.table.digits.shape[0]
        layout = {"markers": MARKERS, "phonemes": phonemes, "audio_offset": AUDIO_OFFSET, "audio_tokens": audio}
        (folder / "tokens.json").write_text(json.dumps(layout, indent=1, ensure_ascii=False) + "\n")


def _products(
    _module: nn.Module, query: Tensor, key: Tensor, value: Tensor, _mask: Tensor | None, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Causal attention as two plain products: 1.5 times as fast as the fused kernel on a CPU without AMX."""
    batch, heads, length, size = query.shape
    mask = torch.full((length, length), -torch.inf, dtype=query.dtype, device=query.device).triu(1)
    flat = [each.reshape(batch * heads, length, size) for each in (query, key, value)]
    weights = torch.baddbmm(mask.expand(batch * heads, -1, -1), flat[0], flat[1].transpose(1, 2), alpha=scaling)
    return (weights.softmax(-1) @ flat[2]).view(query.shape).transpose(1, 2), None


def _speech_rows(table: Float[Tensor, "vocab width"]) -> Float[Tensor, "speech width"]:
    """The rows of the speech vocabulary in its order: audio tokens, end-of-speech."""
    return torch.cat([table[AUDIO_OFFSET:], table[MARKERS["speech_end"], None]])


def _folder(path: str, phonemes: dict[str, int]) -> Path:
    place = resolve_folder(path)
    if read_json(place / "tokens.json")["phonemes"] != phonemes:
        raise ValueError(f"{place}: its phoneme ids are not those of this token corpus")
    return place


@dataclass(frozen=True)
class LMTrainer:
    """A language-model stage: token shards -> a Llama folder.

    Args:
        tokens: folder of the token corpus.
        out: model folder to write; its checkpoint lies beside it and is resumed from.
        start: model folder (``bundled:NAME`` for one inside the package) to train further; None starts anew.
        teacher: model folder whose distributions to learn instead of the corpus; None learns the corpus.
        llama: arguments of transformers' LlamaConfig, less the vocabulary.
        levels: FSQ levels of the codec.
        guide: ``guide_layer``, ``guide`` and ``guide_width`` of SpeechLM.
        batch_tokens: most padded tokens a step.
        single: share of sequences of one utterance; the others are two of one speaker.
    """

    RANGES: ClassVar[Ranges] = {
        **dict.fromkeys(("steps", "batch_tokens", "checkpoint_every"), FROM_1),
        "learning_rate": ABOVE_0,
        "single": (lambda value: 0 <= value <= 1, "from 0 to 1"),
    }

    tokens: str
    out: str
    start: str | None
    teacher: str | None
    llama: dict[str, Any]
    levels: list[int]
    guide: dict[str, Any]
    steps: int
    batch_tokens: int
    single: float
    learning_rate: float
    seed: int
    accelerator: str
    precision: str
    checkpoint_every: int

    def run(self) -> None:
        L.seed_everything(self.seed, verbose=False)
        speakers = read_tokens(self.tokens, "train")
        letters = sorted({c for spoken in speakers.values() for u in spoken for c in u.phonemes})
        if len(letters) + len(MARKERS) >= AUDIO_OFFSET:
            raise ValueError(f"{len(letters)} phoneme characters do not fit under id {AUDIO_OFFSET}")
        phonemes = {c: 1 + len(MARKERS) + i for i, c in enumerate(letters)}
        module = SpeechLM(self.llama, self.levels, steps=self.steps, learning_rate=self.learning_rate, **self.guide)
        if self.start is not None:
            module.start_from(self.start, phonemes)
        if self.teacher is not None:
            module.learn_from(self.teacher, phonemes)
        log.info("%s: %.1f M parameters", Path(self.out).name, sum(p.numel() for p in module.llama.parameters()) / 1e6)
        data = Batches(speakers, phonemes, self.batch_tokens, self.single, self.seed + resumed_at(self.out))
        fit(
            module,
            DataLoader(data, batch_size=None),
            2 * self.steps,
            out=self.out,
            accelerator=self.accelerator,
            precision=self.precision,
            checkpoint_every=self.checkpoint_every,
            export=lambda: module.export(Path(self.out), phonemes),
        )
