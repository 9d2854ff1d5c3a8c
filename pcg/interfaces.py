"""The protocols between models, rules, codecs, datasets, metrics and loggers. Classes satisfy them, none inherits them.

All of them use one vocabulary, the *speech vocabulary*: audio tokens ``0 .. audio_tokens-1`` and then ``end``
(end-of-speech, ``== audio_tokens``). A model maps it to its own token ids.
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
from pcg.types import Audio, Figure, Probs, Rates, Result, Utterance, Verdict


@runtime_checkable
class Cache(Protocol):
    """The keys and values of a model for each row. Rolling back is setting ``lengths`` to smaller numbers."""

    lengths: Int[Tensor, "batch"]  # tokens held per row, prompt included; on the CPU, since shapes depend on it

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Drop every other row."""


@runtime_checkable
class SpeechModel(Protocol):
    """The part of a model that needs no pass through it: its tokens, its prompts, its tables."""

    vocab_size: int  # audio tokens + end-of-speech
    end: int
    device: torch.device

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        """The model's own token ids before the first speech token to generate."""

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]:
        """Rows of the ``input`` or ``output`` table over the speech vocabulary, float32."""


@runtime_checkable
class TokenLM(SpeechModel, Protocol):
    """A causal language model over the speech vocabulary."""

    reads: tuple[int, ...]  # hidden states of the target that it reads as a draft; () if it reads none

    def prefill(
        self,
        prompts: Sequence[Int[Tensor, "prompt"]],
        capacity: int,
        reads: tuple[int, ...] = (),
        target: Any = None,
    ) -> Any:
        """A new cache (``Cache``) with room for ``capacity`` tokens a row, which holds each prompt except its last id.

        Args:
            reads: hidden states to keep in the cache for a draft that reads them, numbered as in transformers: state i
                comes after i layers, and the last one is normed.
            target: the target's cache, from which such a draft takes the states; None for other models.
        """

    def step(self, tokens: Int[Tensor, "batch new"], cache: Any) -> Float[Tensor, "batch new vocab"]:
        """Append ``new`` of the model's own ids to each row at its length; returns speech logits after each of them."""

    def token_ids(self, speech: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
        """Speech vocabulary -> the model's own token ids."""


@runtime_checkable
class Readable(TokenLM, Protocol):
    """A model that gives its hidden states and head to a draft or a rule that reads them."""

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
    """A draft that proposes a whole block in fewer launches than step by step."""

    def propose(
        self,
        latest: Int[Tensor, "batch unread"],
        cache: Any,
        uniform: Float[Tensor, "batch gamma"],
        sampling: Sampling,
        history: History | None,
    ) -> Drafted:
        """As ``pcg.models.chain.chain`` with this model's steps."""


@runtime_checkable
class Rule(Protocol):
    """Decides how many tokens of a drafted block are kept and which token follows them."""

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict: ...

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """Probability that one drafted token is accepted, over the draft's own draw."""


@runtime_checkable
class StateRule(Protocol):
    """A rule that needs the target's last hidden states, which the target's cache then keeps."""

    def over(self, target: Any, cache: Any, sampling: Any) -> Any:
        """An object with a rule's ``verify`` for one batch. Its acceptance is not a function of distributions alone."""


@runtime_checkable
class Codec(Protocol):
    """Discrete tokens <-> audio, one codebook."""

    sample_rate: int
    frame: int  # tokens that are decoded together; 1 where each token has its own audio
    hop: int  # samples a frame
    codebook_size: int

    def encode(self, audio: Sequence[Audio]) -> list[Int[Tensor, "length"]]:
        """Tokens of each clip, which is resampled where needed."""

    def decode(self, tokens: Sequence[Int[Tensor, "length"]]) -> list[Audio]:
        """``len(tokens) // frame * hop`` samples each."""

    def codebook(self) -> Float[Tensor, "codebook dim"]:
        """One vector for each token."""


@runtime_checkable
class Spectral(Codec, Protocol):
    """A codec that decodes tokens to spectra, which a vocoder turns into samples.

    The sound of tokens can then be computed without the vocoder, which may be most of the work.
    """

    def spectra(self, tokens: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length values"]:
        """Levels in dB, those of each token as one row."""


@runtime_checkable
class Dataset(Protocol):
    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Utterance]: ...


@runtime_checkable
class Metric(Protocol):
    """Scores audio with one row of columns for each utterance.

    ``figures`` declares what a run's ``quality`` gets from the metric: by key, the figure's name, unit, format,
    direction and the columns that it is a ratio of. Corpus WER is ``word_errors / words``. Where an utterance lacks
    what the metric needs, the numerator is None and the utterance is left out of the figure.
    """

    figures: Mapping[str, Figure]

    def score(self, audio: Sequence[Audio], utterances: Sequence[Utterance]) -> list[dict[str, float | str | None]]: ...


@runtime_checkable
class Logger(Protocol):
    """Logs runs. Whatever it raises the runner reports once, and goes on without it.

    It may have three attributes more: with ``awaited = True`` it also gets runs that were finished before this process
    began, with ``disabled = True`` it gets none, and with ``logs_inputs = True`` its runs have ``log_inputs(inputs)``,
    which is called before ``finish`` with what the run rests on (``pcg.types.Input``).

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
            step: its number among all utterances that the run has on disk, those of earlier starts included.
            utterance: its row, as in ``utterances.parquet``.
            so_far: the run's figures (``pcg.runner.progress.SoFar``).
        """

    def finish(self, result: Result, utterances: Sequence[Mapping[str, Any]], objective: float | None = None) -> None:
        """The result is on disk. ``objective``: its value for the search that the run is part of."""

    def stop(self, state: Literal["failed", "stopped"], reason: str) -> None:
        """The run has ended without a result; the same command may resume it."""
