"""The rows of a batch while they are decoded: what each has said, where it is, when it stops."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.sampling import Randomness, Sampling, look_at, may_look, unsound
from pcg.types import Generation, Utterance


@dataclass(frozen=True)
class Prompt:
    """What to say, and the speech tokens of the voice to say it in."""

    utterance: Utterance
    speech: Int[Tensor, "length"] | None = None


@dataclass(frozen=True)
class Commit:
    """What became of a block of tokens, a value per active row; all of it on the CPU."""

    accepted: Int[Tensor, "batch"]  # tokens of its block that came before the last one it was given
    emitted: list[int]  # tokens added, end-of-speech not counted
    finished: list[bool]  # end-of-speech was among them
    active: list[int]  # places of the rows that go on


class Rows:
    """The active rows; a row leaves when it says end-of-speech or reaches ``max_tokens``.

    Attributes:
        index: place of each active row in the batch that was asked for, on the CPU.
        positions: how many tokens each has generated, which is also the position of its next token.
        seen: tokens that the repetition penalty applies to; None without a penalty.
    """

    def __init__(
        self,
        prompts: Sequence[Prompt],
        vocab_size: int,
        end: int,
        max_tokens: int,
        sampling: Sampling,
        randomness: Randomness,
        beyond: int = 0,
    ) -> None:
        """``beyond``: positions after ``max_tokens`` that numbers are asked for."""
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens}: 1 or more")
        device = randomness.keys.device
        self._end, self._max_tokens = end, max_tokens
        self._tokens: list[list[int]] = [[] for _ in prompts]
        self._finished = [False] * len(prompts)
        self.index = torch.arange(len(prompts))
        self.positions = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        self.randomness = randomness.ahead(max_tokens + beyond)
        self.seen: Bool[Tensor, "batch vocab"] | None = None
        if sampling.repetition_penalty != 1:
            self.seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool, device=device)
            for row, prompt in zip(self.seen, prompts, strict=True):
                if prompt.speech is not None:
                    row[prompt.speech.to(device)] = True

    def commit(
        self, block: Int[Tensor, "batch tokens"], count: Int[Tensor, "batch"], **probs: Float[Tensor, "batch ..."]
    ) -> Commit:
        """Add the first ``count`` (at least 1) tokens of each row's block, up to end-of-speech or the maximum.

        This is the one time in a round that the host waits for a device: all that it must know comes in one copy.

        Args:
            probs: what the tokens were drawn from, checked here where nobody could look before.

        Raises:
            ValueError: rows that are no distributions.
        """
        wrong = [] if may_look(block) or not probs else [unsound(*probs.values()).unsqueeze(1)]
        packed = torch.cat([*wrong, block, count.unsqueeze(1)], 1).cpu()
        *blocks, counts = packed.T.tolist()
        if wrong and any(blocks.pop(0)):
            look_at(**probs)
        rows = zip(self.index.tolist(), zip(*blocks, strict=True), counts, strict=True)
        emitted, finished, goes_on = zip(*(self._extend(row, tokens[:kept]) for row, tokens, kept in rows), strict=True)
        self.positions = self.positions + count  # rows that were cut leave
        if self.seen is not None:
            places = torch.arange(block.shape[1], device=block.device)
            self.seen = mark(self.seen, torch.where(places < count.unsqueeze(1), block, block[:, :1]))
        active = [place for place, active in enumerate(goes_on) if active]
        return Commit(packed[:, -1] - 1, list(emitted), list(finished), active)

    def _extend(self, row: int, tokens: Sequence[int]) -> tuple[int, bool, bool]:
        said = self._tokens[row]
        tokens = tokens[: self._max_tokens - len(said)]
        finished = self._end in tokens
        if finished:
            tokens = tokens[: tokens.index(self._end)]
            self._finished[row] = True
        said.extend(tokens)
        return len(tokens), finished, not finished and len(said) < self._max_tokens

    def keep(self, active: Int[Tensor, "kept"]) -> None:
        self.index = self.index[active]
        active = active.to(self.positions.device)
        self.positions = self.positions[active]
        self.randomness = self.randomness.keep(active)
        self.seen = None if self.seen is None else self.seen[active]

    def generations(self) -> list[Generation]:
        return [
            Generation(torch.tensor(tokens, dtype=torch.int64), finished)
            for tokens, finished in zip(self._tokens, self._finished, strict=True)
        ]


def mark(seen: Bool[Tensor, "batch vocab"], tokens: Int[Tensor, "batch tokens"]) -> Bool[Tensor, "batch vocab"]:
    """``seen`` with ``tokens`` added, as a new tensor."""
    return seen.scatter(1, tokens, True)
