"""The rows of a batch while they are decoded: the tokens of each, its position, and when it stops."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.interfaces import TokenLM
from pcg.sampling import Randomness, Sampling, look_at, may_look, unsound
from pcg.types import Generation, Round, Utterance, Verdict

Listener = Callable[[int, Sequence[int]], None]


@dataclass(frozen=True)
class Prompt:
    """An utterance, and the speech tokens of its voice prompt."""

    utterance: Utterance
    speech: Int[Tensor, "length"] | None = None


@dataclass(frozen=True)
class Batch:
    """The prompts that are decoded together, and the settings.

    Attributes:
        sampling: how the logits of every model become probabilities.
        max_tokens: speech tokens a row, at most.
        randomness: one key a prompt.
        listener: called after each round with a row's index and its new tokens, without end-of-speech.
    """

    prompts: Sequence[Prompt]
    sampling: Sampling
    max_tokens: int
    randomness: Randomness
    listener: Listener | None = None


@dataclass(frozen=True)
class Commit:
    """The outcome of a round for each active row; all tensors but ``positions`` are on the CPU.

    Attributes:
        rows: index of each row in the batch.
        positions: of the first token of each block.
        accepted: number of tokens of each block before the recovered or bonus token.
        emitted: number of tokens added, end-of-speech not counted.
        finished: whether end-of-speech was among them.
        active: indices, among these rows, of those that continue; None if all do.
    """

    rows: Int[Tensor, "batch"]
    positions: Int[Tensor, "batch"]
    accepted: Int[Tensor, "batch"]
    emitted: list[int]
    finished: list[bool]
    active: Int[Tensor, "kept"] | None

    def as_round(
        self, draft_tokens: Tensor, draft_probs: Tensor, target_probs: Tensor, verdict: Verdict, block: Tensor
    ) -> Round:
        """The whole round, for an observer."""
        emitted, finished = torch.tensor(self.emitted), torch.tensor(self.finished)
        models = draft_tokens, draft_probs, target_probs
        return Round(self.rows, self.positions, *models, verdict, block, emitted, finished)


class Rows:
    """The active rows; a row leaves at end-of-speech or at ``max_tokens``.

    Attributes:
        index: of each active row in the batch, on the CPU.
        positions: number of tokens that each has generated, which is also the position of its next token.
        prompts, sampling, max_tokens: of the batch.
        history: of the tokens before the next one, if sampling reads it.
    """

    def __init__(self, batch: Batch, target: TokenLM, beyond: int = 0) -> None:
        """``beyond``: number of positions after ``max_tokens`` that need random numbers."""
        prompts, max_tokens, sampling, randomness = batch.prompts, batch.max_tokens, batch.sampling, batch.randomness
        if max_tokens < 1:
            raise ValueError(f"max_tokens={max_tokens} must be 1 or more")
        device = randomness.keys.device
        self.prompts, self.sampling, self.max_tokens = prompts, sampling, max_tokens
        self._end, self._listener = target.end, batch.listener
        self._tokens: list[list[int]] = [[] for _ in prompts]
        self._finished = [False] * len(prompts)
        self.index = torch.arange(len(prompts))
        self.positions = torch.zeros(len(prompts), dtype=torch.int64, device=device)
        self.randomness = randomness.ahead(max_tokens + beyond)
        self.history = sampling.history([prompt.speech for prompt in prompts], target.vocab_size, device)

    def commit(
        self, block: Int[Tensor, "batch tokens"], count: Int[Tensor, "batch"], **probs: Float[Tensor, "batch ..."]
    ) -> Commit:
        """Adds the first ``count`` (at least 1) tokens of each row's block, up to end-of-speech or the maximum.

        This is the only time in a round that the host waits for the device; one copy brings all that the host needs.

        Args:
            probs: the distributions of the round, checked here where ``may_look`` was False before.

        Raises:
            ValueError: some row is not a distribution.
        """
        wrong = [] if may_look(block) or not probs else [unsound(*probs.values()).unsqueeze(1)]
        packed = torch.cat([*wrong, block, count.unsqueeze(1)], 1).cpu()
        *blocks, counts = packed.T.tolist()
        if wrong and any(blocks.pop(0)):
            look_at(**probs)
        rows = zip(self.index.tolist(), zip(*blocks, strict=True), counts, strict=True)
        emitted, finished, goes_on = zip(*(self._extend(row, tokens[:kept]) for row, tokens, kept in rows), strict=True)
        positions = self.positions
        self.positions = positions + count  # rows that were cut leave
        if self.history is not None:
            self.history = self.history.after_block(block, count)
        active = None if all(goes_on) else torch.tensor(goes_on).nonzero().squeeze(1)
        return Commit(self.index, positions, packed[:, -1] - 1, list(emitted), list(finished), active)

    def _extend(self, row: int, tokens: Sequence[int]) -> tuple[int, bool, bool]:
        row_tokens = self._tokens[row]
        tokens = tokens[: self.max_tokens - len(row_tokens)]
        finished = self._end in tokens
        if finished:
            tokens = tokens[: tokens.index(self._end)]
            self._finished[row] = True
        row_tokens.extend(tokens)
        if self._listener is not None and tokens:
            self._listener(row, tokens)
        return len(tokens), finished, not finished and len(row_tokens) < self.max_tokens

    def __len__(self) -> int:
        return len(self.index)

    def keep(self, active: Int[Tensor, "kept"]) -> None:
        self.index = self.index[active]
        active = active.to(self.positions.device)
        self.positions = self.positions[active]
        self.randomness = self.randomness.keep(active)
        self.history = None if self.history is None else self.history.map(lambda part: part[active])

    def generations(self) -> list[Generation]:
        return [
            Generation(torch.tensor(tokens, dtype=torch.int64), finished)
            for tokens, finished in zip(self._tokens, self._finished, strict=True)
        ]
