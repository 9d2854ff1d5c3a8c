"""Small stand-ins for the parts that are slow or not there."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import torch
from torch import Tensor

from pcg.history import History
from pcg.models.tree import Tree
from pcg.sampling import Purpose, Randomness, Sampling, draw
from pcg.types import Utterance, Verdict


@dataclass
class MarkovCache:
    """What a ``MarkovLM`` has been fed. ``tokens`` is padded; row i holds ``tokens[i, :lengths[i]]``."""

    tokens: Tensor
    lengths: Tensor

    def keep(self, rows: Tensor) -> None:
        self.tokens, self.lengths = self.tokens[rows], self.lengths[rows]

    def move(self, source: Tensor, place: Tensor) -> None:
        self.tokens = self.tokens.scatter(1, place[:, None], self.tokens.gather(1, source[:, None]))


def law_after(sampling: Sampling, logits: Tensor, voice: list[int], said: list[int]) -> Tensor:
    """The sampled distribution after ``said``, from its definition: by the first draw of repetition-aware sampling."""
    heard, first = [*voice, *said], replace(sampling, penalty_window=None, ras=None)
    seen = torch.zeros(len(logits), dtype=torch.bool)
    seen[torch.tensor(heard[-(sampling.penalty_window or len(heard)) :], dtype=torch.int64)] = True
    history = History(seen, None, None)
    nucleus = first.probabilities(logits, history)
    if sampling.ras is None:
        return nucleus
    whole, law = replace(first, top_k=None, top_p=1.0).probabilities(logits, history), torch.zeros_like(nucleus)
    window, tau = sampling.ras.window, sampling.ras.tau
    for token, probability in enumerate(nucleus):
        if said[-window:].count(token) >= window * tau:
            law += probability * whole
        else:
            law[token] += probability
    return law


class MarkovLM:
    """A ``TokenLM`` whose next-token logits depend on the last two tokens alone, so that its law is closed.

    Its own ids are the speech vocabulary shifted by ``shift``, after three prompt ids that it treats as token 0.
    It checks that it is only ever asked about tokens that it was fed, at the lengths it was left with.
    """

    device = torch.device("cpu")
    reads = ()

    def __init__(self, logits: Tensor, shift: int = 3) -> None:
        """``logits``: [vocab, vocab, vocab], by the token before the last, the last, the next."""
        self.table, self.shift = logits, shift
        self.vocab_size = logits.shape[-1]
        self.end = self.vocab_size - 1
        self.passes: list[tuple[int, ...]] = []

    @staticmethod
    def random(vocab: int, seed: int, spread: float = 1.5, shift: int = 3) -> MarkovLM:
        generator = torch.Generator().manual_seed(seed)
        return MarkovLM(spread * torch.randn(vocab, vocab, vocab, generator=generator), shift)

    def prompt(self, utterance: Utterance, prompt_tokens: Tensor | None) -> Tensor:
        start = torch.arange(2 + len(utterance.text) % 3) % self.shift
        return start if prompt_tokens is None else torch.cat([start, self.token_ids(prompt_tokens)])

    def prefill(
        self, prompts: Sequence[Tensor], capacity: int, reads: tuple[int, ...] = (), target: object = None
    ) -> MarkovCache:
        tokens = torch.zeros(len(prompts), capacity, dtype=torch.int64)
        for row, prompt in zip(tokens, prompts, strict=True):
            row[: len(prompt) - 1] = prompt[:-1]
        return MarkovCache(tokens, torch.tensor([len(prompt) - 1 for prompt in prompts]))

    def step(self, tokens: Tensor, cache: MarkovCache) -> Tensor:
        self.passes.append(tuple(tokens.shape))
        places = cache.lengths[:, None] + torch.arange(tokens.shape[1])
        cache.tokens = cache.tokens.scatter(1, places, tokens)
        cache.lengths = cache.lengths + tokens.shape[1]
        speech = (cache.tokens - self.shift).clamp(min=0)
        return self.table[speech.gather(1, (places - 1).clamp(min=0)), speech.gather(1, places)]

    def step_tree(self, tokens: Tensor, cache: MarkovCache, tree: Tree) -> Tensor:
        self.passes.append(tuple(tokens.shape))
        before = cache.tokens.gather(1, (cache.lengths - 1).clamp(min=0)[:, None])
        places = cache.lengths[:, None] + torch.arange(tokens.shape[1])
        cache.tokens, cache.lengths = cache.tokens.scatter(1, places, tokens), cache.lengths + tokens.shape[1]
        parents = [self._parent(node, tree) for node in range(tokens.shape[1])]
        of_parents = torch.cat([tokens, before], 1)[:, parents]  # -1: what the row held before
        return self.table[(of_parents - self.shift).clamp(min=0), (tokens - self.shift).clamp(min=0)]

    @staticmethod
    def _parent(node: int, tree: Tree) -> int:
        above = [other for other in tree.sees[node].nonzero()[:, 0].tolist() if other != node]
        assert sorted(tree.depths[above].tolist()) == list(range(int(tree.depths[node]))), "a path without gaps"
        return max(above, key=lambda other: int(tree.depths[other]), default=-1)

    def token_ids(self, speech: Tensor) -> Tensor:
        return speech + self.shift

    def embeddings(self, source: str) -> Tensor:
        return self.table.reshape(self.vocab_size, -1)


class ExactRule:
    """Exact speculative sampling, as plainly as can be."""

    def verify(
        self, draft_tokens: Tensor, draft_probs: Tensor, target_probs: Tensor, positions: Tensor, randomness: Randomness
    ) -> Verdict:
        gamma = draft_tokens.shape[1]
        places = positions[:, None] + torch.arange(gamma)
        drafted = draft_tokens.unsqueeze(2)
        draft, target = draft_probs.gather(2, drafted)[..., 0], target_probs.gather(2, drafted)[..., 0]
        kept = randomness.uniform(places, Purpose.ACCEPT) * draft < target
        accepted = kept.long().cumprod(1).sum(1)
        # beyond the block the draft has no mass, so the residual there is the target itself
        residual = (target_probs - torch.nn.functional.pad(draft_probs, (0, 0, 0, 1))).clamp(min=0)
        weights = residual[torch.arange(len(accepted)), accepted]
        return Verdict(accepted, draw(weights, randomness.uniform(positions + accepted, Purpose.RECOVERED)))

    def expected_acceptance(self, draft_probs: Tensor, target_probs: Tensor) -> Tensor:
        return torch.minimum(draft_probs, target_probs).sum(-1)

    def law(self, draft_probs: Tensor, target_probs: Tensor) -> Tensor:
        return target_probs


class AcceptAll:
    """Keeps every drafted token."""

    def verify(
        self, draft_tokens: Tensor, draft_probs: Tensor, target_probs: Tensor, positions: Tensor, randomness: Randomness
    ) -> Verdict:
        batch, gamma = draft_tokens.shape
        bonus = randomness.uniform(positions + gamma, Purpose.BONUS)
        return Verdict(torch.full((batch,), gamma), draw(target_probs[:, gamma], bonus))

    def expected_acceptance(self, draft_probs: Tensor, target_probs: Tensor) -> Tensor:
        return torch.ones(draft_probs.shape[:-1])


def make_bundled_folder(
    folder: Path,
    *,
    layers: int = 2,
    width: int = 64,
    heads: int = 4,
    kv_heads: int = 2,
    audio_tokens: int = 96,
    seed: int = 0,
    dtype: torch.dtype = torch.float16,
    tied: bool = True,
    kind: str = "Llama",
    **config: object,
) -> Path:
    """A random model folder of the bundled pair's form (config.json, model.safetensors, tokens.json); ``folder`` again.

    ``kind``: Llama, Qwen2 or Qwen3. Further keywords go into transformers' config of it.
    """
    import transformers  # tests only

    alphabet = json.loads((files("hibari") / "assets" / "vocab.json").read_text(encoding="utf-8"))
    markers = {"text_start": 1, "text_end": 2, "speech_start": 3, "speech_end": 4}
    phonemes = {character: 5 + i for i, character in enumerate(sorted(alphabet))}
    offset = 5 + len(phonemes)
    settings: dict[str, object] = {
        "vocab_size": offset + audio_tokens,
        "hidden_size": width,
        "intermediate_size": width * 11 // 4,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
        "bos_token_id": 1,
        "eos_token_id": 4,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    made = getattr(transformers, f"{kind}Config")(**{**settings, **config})
    model = getattr(transformers, f"{kind}ForCausalLM")(made)
    if kind != "Llama":  # else biases are zeros and norms ones, which would hide that they are not read
        for weight in model.parameters():
            if weight.ndim == 1:
                weight.data += 0.3 * torch.randn_like(weight.data)
    model = model.to(dtype)
    model.save_pretrained(folder)
    tokens = {"markers": markers, "phonemes": phonemes, "audio_offset": offset, "audio_tokens": audio_tokens}
    (folder / "tokens.json").write_text(json.dumps(tokens), encoding="utf-8")
    return folder
