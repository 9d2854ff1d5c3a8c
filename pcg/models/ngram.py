"""A draft without a neural model: n-grams over the speech tokens that the row has so far.

Prompt lookup (Saxena 2023) copies the longest match; this computes a whole distribution instead, so that every
acceptance rule applies: counts are interpolated by Witten and Bell (1991), method C.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.constraints import checked, up_to
from pcg.types import Utterance


class NGramCache:
    """The tokens of each row; those beyond a row's length do not count."""

    lengths: Int[Tensor, "batch"]

    def __init__(self, batch: int, capacity: int) -> None:
        self.tokens = torch.zeros(batch, capacity, dtype=torch.int64)
        self.lengths = torch.zeros(batch, dtype=torch.int64)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.tokens, self.lengths = self.tokens[rows.cpu()], self.lengths[rows.cpu()]


@checked
class NGram:
    """A ``TokenLM`` whose own ids are the speech vocabulary and one filler.

    ``p_n(t) = (count(context t) + kinds * p_{n-1}(t)) / (count(context) + kinds)``, where ``kinds`` is how many
    different tokens have followed the context; order 0 is uniform. Runs on the CPU, on the tokens of each row, those of
    the voice prompt included.

    Args:
        order: length of the longest n-gram; its last token is the one predicted.
        vocab_size: audio tokens and end-of-speech; the runner gives the target's.
        device: of the logits.

    Raises:
        ValueError: an order below 1.
    """

    reads: tuple[int, ...] = ()

    def __init__(
        self, vocab_size: int, device: str | torch.device = "cpu", order: Annotated[int, up_to(1_000)] = 4
    ) -> None:
        self.vocab_size, self.end, self.device = vocab_size, vocab_size - 1, torch.device(device)
        self._order = order

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """The voice prompt's tokens after two fillers, because the loop takes a prompt's last two ids."""
        fill = torch.full((2,), self.vocab_size)
        return fill if prompt_tokens is None else torch.cat([fill, prompt_tokens.cpu()])

    def prefill(
        self, prompts: Sequence[Int[Tensor, "_"]], capacity: int, reads: tuple[int, ...] = (), target: Any = None
    ) -> NGramCache:
        if reads:
            raise ValueError("n-grams have no hidden states: choose another target for a draft that reads them")
        cache = NGramCache(len(prompts), capacity)
        for row, prompt in zip(cache.tokens, prompts, strict=True):
            row[: len(prompt) - 1] = prompt[:-1]
        cache.lengths = torch.tensor([len(prompt) - 1 for prompt in prompts])
        return cache

    def step(self, tokens: Int[Tensor, "batch new"], cache: NGramCache) -> Float[Tensor, "batch new vocab"]:
        """Log-probabilities."""
        new = tokens.shape[1]
        cache.tokens.scatter_(1, cache.lengths.unsqueeze(1) + torch.arange(new), tokens.cpu())
        logits = torch.stack(
            [
                torch.stack([self._next(row[: length + i + 1]) for i in range(new)])
                for row, length in zip(cache.tokens, cache.lengths.tolist(), strict=True)
            ]
        ).log()
        cache.lengths = cache.lengths + new
        return logits.to(self.device)

    def _next(self, history: Int[Tensor, "length"]) -> Float[Tensor, "vocab"]:
        probs = torch.full((self.vocab_size,), 1 / self.vocab_size)
        for context in range(min(self._order, len(history))):
            # earlier places of the last ``context`` tokens, and the tokens that followed them
            windows = history.unfold(0, context + 1, 1)
            alike = (windows[:, :context] == history[len(history) - context :]).all(1)
            followers = windows[alike, -1]
            counts = torch.bincount(followers[followers < self.vocab_size], minlength=self.vocab_size)
            kinds, total = int((counts > 0).sum()), int(counts.sum())
            if total == 0:  # a context that has not been seen, so no longer one has either
                break
            probs = (counts + kinds * probs) / (total + kinds)
        return probs

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        return speech

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """Raises ValueError, since there is no table."""
        raise ValueError(f"draft=ngram has no {source} table: build groups from the target or the codec")
