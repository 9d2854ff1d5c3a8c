"""The protocols that every part is written against. A leaf satisfies one of these; nothing inherits.

One vocabulary runs through all of them, the *speech vocabulary*: audio tokens ``0 .. audio_tokens-1`` and
then ``end`` (end-of-speech, ``== audio_tokens``). A model maps it to its own token ids by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.history import History
from pcg.sampling import Randomness, Sampling
from pcg.types import Audio, Figure, Result, Utterance, Verdict


@runtime_checkable
class Cache(Protocol):
    """What a model remembers of each row. Rolling back is setting ``lengths`` to something smaller."""

    lengths: Int[Tensor, "batch"]  # tokens held per row, prompt included; on the CPU, since shapes depend on it

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Drop every other row."""


@runtime_checkable
class SpeechModel(Protocol):
    """What is known of a model without a pass through it: its tokens, its prompts, its tables."""

    vocab_size: int  # audio tokens + end-of-speech
    end: int
    device: torch.device

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """The model's own token ids that lead up to the first speech token to generate."""

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """Rows of the ``input`` or ``output`` table over the speech vocabulary, float32."""


@runtime_checkable
class TokenLM(SpeechModel, Protocol):
    """A causal language model over the speech vocabulary."""

    reads: tuple[int, ...]  # hidden states of the target that it reads as a draft; () of a model of its own

    def prefill(
        self,
        prompts: Sequence[Int[Tensor, "prompt"]],
        capacity: int,
        reads: tuple[int, ...] = (),
        target: Any = None,
    ) -> Any:
        """A new cache (``Cache``) with room for ``capacity`` tokens a row, holding each prompt but its last id.

        Args:
            reads: hidden states to keep in the cache for a draft that reads them. State i comes after i layers, and
                the last is normed, as transformers numbers them.
            target: the target's cache, where such a draft finds the states; a model of its own needs none.
        """

    def step(self, tokens: Int[Tensor, "batch new"], cache: Any) -> Float[Tensor, "batch new vocab"]:
        """Append ``new`` of the model's own ids to each row at its length; speech logits after each of them."""

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Speech vocabulary -> the model's own token ids."""


@runtime_checkable
class Readable(TokenLM, Protocol):
    """A model whose insides others may use: a draft that reads its states, a rule that asks its head again."""

    width: int  # of a hidden state
    layers: int
    fingerprint: str  # of its weights

    def embed(self, ids: Int[Tensor, "batch new"]) -> Float[Tensor, "batch new width"]:
        """Rows of the input table."""

    def head(self, hidden: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch vocab"]:
        """Speech logits of the last, normed hidden state."""


# tokens, the distribution that each was drawn from, the history before each and at the end
Drafted = tuple[Int[Tensor, "batch drafted"], Float[Tensor, "batch drafted vocab"], History | None]


class ChainLM(TokenLM, Protocol):
    """A draft that makes a whole block by itself, in fewer launches than step by step."""

    def propose(
        self,
        latest: Int[Tensor, "batch unread"],
        cache: Any,
        uniform: Float[Tensor, "batch gamma"],
        sampling: Sampling,
        history: History | None,
    ) -> Drafted:
        """As ``pcg.models.chain.chain`` with its own steps from ``latest`` on."""


@runtime_checkable
class Rule(Protocol):
    """Decides how much of a drafted block is kept and what is emitted next."""

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict: ...

    def expected_acceptance(
        self, draft_probs: Float[Tensor, "*batch vocab"], target_probs: Float[Tensor, "*batch vocab"]
    ) -> Float[Tensor, "*batch"]:
        """Probability that one drafted token is accepted, over the draft's own draw."""


@runtime_checkable
class StateRule(Protocol):
    """Makes what verifies a batch by asking the target's head again: its cache keeps the target's last states."""

    def over(self, target: Any, cache: Any, sampling: Any) -> Any:
        """Something with a rule's ``verify``; distributions alone do not tell what it expects to keep."""


@runtime_checkable
class Codec(Protocol):
    """Discrete tokens <-> audio, one codebook."""

    sample_rate: int
    frame: int  # tokens that are heard together, 1 where each is heard by itself
    hop: int  # samples a frame
    codebook_size: int

    def encode(self, audio: Sequence[Audio]) -> list[Int[Tensor, "length"]]:
        """Tokens of each clip; resamples as needed."""

    def decode(self, tokens: Sequence[Int[Tensor, "length"]]) -> list[Audio]:
        """``len(tokens) // frame * hop`` samples each."""

    def codebook(self) -> Float[Tensor, "codebook dim"]:
        """One vector a token."""


@runtime_checkable
class Spectral(Codec, Protocol):
    """A codec that makes spectra of tokens first, and samples of these by a vocoder: what tokens sound like is had
    without the vocoder, which may be most of the work."""

    def spectra(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length values"]:
        """Levels in dB, those of a token side by side."""


@runtime_checkable
class Dataset(Protocol):
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Utterance]: ...


@runtime_checkable
class Metric(Protocol):
    """Scores audio, one row of columns an utterance.

    ``figures`` declares what a run's ``quality`` gets from it: by key, the figure's name, unit, format, direction and
    the columns that it is a ratio of. Corpus WER is ``word_errors / words``. A numerator is None where an utterance
    has not got what the metric needs; the figure is of the others.
    """

    figures: Mapping[str, Figure]

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, float | str | None]]: ...


@runtime_checkable
class Logger(Protocol):
    """Logs runs. Whatever it raises the runner reports once, and goes on without it.

    It may have three attributes more: with ``awaited = True`` it also gets runs that were finished before this process
    began, with ``disabled = True`` it gets none, and with ``keeps_inputs = True`` its runs have ``keep(inputs)``, which
    is called before ``finish`` with what the run rests on (``pcg.types.Input``).

    Attributes:
        live: whether it gets the steps of a run while the run decodes; else all at once when the run has finished.
    """

    live: bool

    def begin(self, about: Mapping[str, Any], folder: Path, live: bool) -> LiveRun:
        """Begin to log a run.

        Args:
            about: what ``result.json`` says of the run so far.
            folder: of the run.
            live: whether the run is about to decode; else it has finished, and its steps follow at once.
        """


class LiveRun(Protocol):
    """A run that is being logged. No method may block: the run would wait for it."""

    def add(self, step: int, utterance: Mapping[str, Any], so_far: Mapping[str, float]) -> None:
        """Log an utterance that has been decoded.

        Args:
            step: its number among those that the run has on disk, of earlier starts too.
            utterance: its row, as in ``utterances.parquet``.
            so_far: the run's figures (``pcg.runner.progress.SoFar``).
        """

    def finish(self, result: Result, utterances: Sequence[Mapping[str, Any]], objective: float | None = None) -> None:
        """The result is on disk. ``objective``: what it is worth to the search that the run is part of."""

    def stop(self, state: Literal["failed", "stopped"], reason: str) -> None:
        """The run has ended without a result; the same command may go on with it."""
