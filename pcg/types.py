"""The values that pass between the parts. Frozen; shapes beside each field."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Verdict:
    """What a rule decides about a block of drafted tokens.

    Attributes:
        accepted: how many leading draft tokens each row keeps, 0..gamma.
        token: the recovered token, or the bonus token where the whole block was kept.
    """

    accepted: Int[Tensor, "batch"]
    token: Int[Tensor, "batch"]


@dataclass(frozen=True)
class Round:
    """Everything one round of speculative decoding saw, for statistics; rows are the active rows.

    Attributes:
        rows: index of each active row in the batch that was asked for.
        said: the tokens of each row's block, as far as ``emitted`` goes; what follows is of no account.
        positions: index, among a row's generated tokens, of its first drafted token.
        emitted: tokens that this round added to each row (0..gamma+1; less than ``accepted + 1`` where
            end-of-speech or the maximum length cut the block).
        finished: end-of-speech followed them.
    """

    rows: Int[Tensor, "batch"]
    positions: Int[Tensor, "batch"]
    draft_tokens: Int[Tensor, "batch gamma"]
    draft_probs: Float[Tensor, "batch gamma vocab"]
    target_probs: Float[Tensor, "batch gamma+1 vocab"]
    verdict: Verdict
    said: Int[Tensor, "batch gamma+1"]
    emitted: Int[Tensor, "batch"]
    finished: Bool[Tensor, "batch"]


@dataclass(frozen=True)
class Figure:
    """What a figure of a run is, so that tables, plots, W&B and pages show it without knowing its metric.

    Attributes:
        name: what it is called where it is shown: ``WER``.
        unit: written behind the name. ``%`` shows a share times 100.
        format: of the number in that unit, as ``format`` takes it.
        better: which direction is better; None where neither is, so that no run is marked as the best.
        ratio: columns of ``utterances.parquet``: the sum of the first over the sum of the second, or the mean of the
            first where the second is None. None for figures that are no metric's.
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
        """``ratio``, which every figure of a metric has.

        Raises:
            ValueError: it was declared without.
        """
        if self.ratio is None:
            raise ValueError(f"figure {self.name!r} is declared without the columns that it is a ratio of")
        return self.ratio

    @property
    def scale(self) -> float:
        """What a value is multiplied by to be in ``unit``."""
        return 100.0 if self.unit == "%" else 1.0

    @property
    def is_share(self) -> bool:
        """Whether it is a part of a whole, as of the words of a text."""
        return self.unit == "%"

    def number(self, value: float, sign: str = "") -> str:
        """The value in ``unit``, which is not written; ``sign="+"`` writes the sign of positive values too."""
        return format(self.scale * value, sign + self.format)

    def text(self, value: float) -> str:
        """Name, value and unit: ``WER 10.9 %``."""
        return f"{self.name} {self.number(value)} {self.unit}".rstrip()


@dataclass(frozen=True)
class Audio:
    """Mono samples in [-1, 1] with their rate in Hz.

    Attributes:
        source: the file that they were read from, for messages; empty for audio that was made.
    """

    samples: np.ndarray
    sample_rate: int
    source: str = ""

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


@dataclass(frozen=True)
class Utterance:
    """One thing to say: text, and the voice to say it in.

    Audio is loaded when asked for, so that a dataset never holds all of it. What loads it may have a method ``read``
    for the bytes of its file, by which a run's identity knows it.

    Attributes:
        id: unique within its dataset; seeds the utterance's random numbers.
        prompt_text: what the voice prompt says; empty without a prompt.
        load_prompt: reads the voice prompt; None without one.
        load_reference: reads the text spoken by the true speaker, if there is such a recording.
        load_prompt_codes, load_codes: the voice prompt, and the text as it was spoken, as tokens of a codec: where
            speech is stored coded there is no audio.
        load_voice: tokens that tell the voice besides, where a family has such (Spark-TTS).
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
        finished: end-of-speech was sampled (otherwise the maximum length cut it).
        counts: this row's counts, as ``pcg.decoding.statistics`` names them.
        accepted_by_position: accepted draft tokens by place in the block, gamma numbers; empty without a draft.
        sums: ``alpha_exact``, and the distances of a rule with a law, summed over tested tokens.
        kinds: one of ``exact group candidate recovered bonus plain`` per token, for the token timeline.
        target_probs: the target's probability of each token, as the rule saw it; empty where no rule did.
        draft_probs: likewise the draft's; None for a bonus token, which the draft was not asked for.
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
    """A finished run as written to ``result.json`` (schema in ``pcg.results.schema``), and where it lies."""

    folder: str
    values: Mapping[str, Any]
