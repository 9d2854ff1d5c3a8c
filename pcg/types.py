"""The values that modules pass to each other. They are frozen, and each tensor has its shape beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor

Probs = Float[Tensor, "*batch vocab"]  # at each position a distribution over the vocabulary, or a number for each token
Rates = Float[Tensor, "*batch"]  # a probability at each position


@dataclass(frozen=True)
class Verdict:
    """What a rule decides about a block of draft tokens.

    Attributes:
        accepted: how many leading draft tokens each row accepts, 0..gamma.
        token: the recovered token, or the bonus token where the whole block was accepted.
    """

    accepted: Int[Tensor, "batch"]
    token: Int[Tensor, "batch"]


@dataclass(frozen=True)
class Round:
    """All tensors of one round of speculative decoding, for statistics; one row for each active row.

    Attributes:
        rows: index of each active row in the batch that was asked for.
        block: each row's kept drafts and the token after them; the first ``emitted`` were added to the row.
        positions: index, among a row's generated tokens, of its first drafted token.
        emitted: number of tokens that this round added to each row (0..gamma+1; less than ``accepted + 1`` where
            end-of-speech or the maximum length cut the block).
        finished: whether end-of-speech followed them.
    """

    rows: Int[Tensor, "batch"]
    positions: Int[Tensor, "batch"]
    draft_tokens: Int[Tensor, "batch gamma"]
    draft_probs: Float[Tensor, "batch gamma vocab"]
    target_probs: Float[Tensor, "batch gamma+1 vocab"]
    verdict: Verdict
    block: Int[Tensor, "batch gamma+1"]
    emitted: Int[Tensor, "batch"]
    finished: Bool[Tensor, "batch"]


@dataclass(frozen=True)
class Figure:
    """Describes a figure of a run, so that tables, plots, W&B and pages can show it without knowing its metric.

    Attributes:
        name: as it is shown: ``WER``.
        unit: shown after the name. ``%`` shows a share times 100.
        format: of the number in that unit, for ``format``.
        better: which direction is better; None where neither is, and no run is marked as the best.
        ratio: columns of ``utterances.parquet``: the sum of the first over the sum of the second, or the mean of the
            first where the second is None. None for figures that do not come from a metric.
    """

    name: str
    unit: str = ""
    format: str = ".3f"
    better: Literal["higher", "lower"] | None = None
    ratio: tuple[str, str | None] | None = None

    @property
    def heading(self) -> str:
        """Name and unit."""
        return f"{self.name} {self.unit}".strip()

    @property
    def columns(self) -> tuple[str, str | None]:
        """``ratio``, which every figure of a metric must have.

        Raises:
            ValueError: the figure has none.
        """
        if self.ratio is None:
            raise ValueError(f"figure {self.name!r}: `ratio` is required, the columns that it is a ratio of")
        return self.ratio

    @property
    def scale(self) -> float:
        """The factor from a value to its number in ``unit``."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def is_share(self) -> bool:
        """Whether it is a part of a whole, such as of the words of a text."""
        return self.unit == "%"

    def number(self, value: float, sign: str = "") -> str:
        """The number in ``unit``, without the unit; ``sign="+"`` writes the sign of positive numbers too."""
        return format(self.scale * value, sign + self.format)

    def text(self, value: float) -> str:
        """Name, value and unit: ``WER 10.9 %``."""
        return f"{self.name} {self.number(value)} {self.unit}".rstrip()


@dataclass(frozen=True)
class Audio:
    """Mono samples in [-1, 1] with their rate in Hz.

    Attributes:
        source: the file that they were read from, for messages; empty for generated audio.
    """

    samples: np.ndarray
    sample_rate: int
    source: str = ""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True)
class Utterance:
    """A text, and the voice to say it in.

    Audio is loaded only when it is needed, so that a dataset never holds all of it. A function that loads it may have a
    method ``read``, which returns the bytes of its file for the run's identity.

    Attributes:
        id: unique within its dataset; seeds the utterance's random numbers.
        prompt_text: the text of the voice prompt; empty without a prompt.
        load_prompt: reads the voice prompt; None without one.
        load_reference: reads a recording of the text by the true speaker, if there is one.
        load_prompt_codes, load_codes: the voice prompt and the recording of the text as tokens of a codec, where a
            dataset stores these and no audio.
        load_voice: further tokens of the voice, for families that have them (Spark-TTS).
    """

    id: str
    text: str
    speaker: str = ""
    prompt_text: str = ""
    load_prompt: Callable[[], Audio] | None = None
    load_reference: Callable[[], Audio] | None = None
    load_prompt_codes: Callable[[], np.ndarray] | None = None
    load_codes: Callable[[], np.ndarray] | None = None
    load_voice: Callable[[], np.ndarray] | None = None


@dataclass(frozen=True)
class Generation:
    """The speech tokens decoded for one row.

    Attributes:
        tokens: audio token ids, end-of-speech excluded.
        finished: whether end-of-speech was sampled; else the maximum length ended it.
        counts: this row's counts, as ``pcg.decoding.statistics`` names them.
        accepted_by_position: accepted draft tokens by position in the block, gamma numbers; empty without a draft.
        sums: ``alpha_exact``, and the distances of a rule with a law, summed over tested tokens.
        kinds: one of ``exact group candidate recovered bonus plain`` per token, for the token timeline.
        target_probs: the target's probability of each token, as the rule had it; empty without a rule.
        draft_probs: likewise the draft's; None for a bonus token, which the draft did not propose.
    """

    tokens: Int[Tensor, "length"]
    finished: bool
    counts: Mapping[str, int] = field(default_factory=dict)
    accepted_by_position: tuple[int, ...] = ()
    sums: Mapping[str, float] = field(default_factory=dict)
    kinds: tuple[str, ...] = ()
    target_probs: tuple[float, ...] = ()
    draft_probs: tuple[float | None, ...] = ()


@dataclass(frozen=True)
class Input:
    """What a run rests on, by its content: a checkpoint that it read, or the groups that it built.

    Attributes:
        kind: ``checkpoint`` or ``groups``.
        digest: of the content.
        keys: of the config, dotted, whose values these are: ``draft.path``.
        files: what it consists of, by name; none where ``source`` is given.
        source: the name by which anybody can fetch it: a hub id, or ``bundled:NAME``.
    """

    kind: Literal["checkpoint", "groups"]
    digest: str
    keys: tuple[str, ...]
    files: Mapping[str, Path] = field(default_factory=dict)
    source: str | None = None

    @property
    def name(self) -> str:
        return f"{self.kind}-{self.digest}"


@dataclass(frozen=True)
class Result:
    """A finished run: its folder, and the content of its ``result.json`` (``pcg.results.schema``)."""

    folder: str
    values: Mapping[str, Any]
