"""Logits -> probabilities -> draws. Pure functions; every random number is asked for by name.

A random number is a hash of (seed, row key, token position, purpose, index). It depends neither on the batch
nor on the device nor on what was drawn before, so a row decodes alike in any batch, and rules that are
compared on the same prompts see the same luck.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.constraints import FROM_1, SHARE_ABOVE_0, Constraint, checked, up_to
from pcg.history import NONE, History, counts


class Purpose(IntEnum):
    """What a random number is for; numbers of different purposes are independent."""

    TOKEN = 0  # a model's own draw: a token of plain decoding, or draw i of a round's start for its draft i
    ACCEPT = 1  # the acceptance test of a drafted token
    GROUP = 2  # the group of a token
    RECOVERED = 3  # the token after a rejection
    BONUS = 4  # the token after a whole block was kept
    TRIAL = 5  # repeated draws: thinning, tolerance sets


# splitmix64 (Steele, Lea, Flood 2014), as signed 64-bit constants: the same bits on every device.
_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685
_DRAW = 1 << 40  # between two draws at one position: above any position * len(Purpose)


TOLERANCE = 1e-3  # of a distribution's sum; float32 softmax over 65,536 tokens stays within 1e-4
_DRAWS_AHEAD = 96  # as many draws a position are kept at hand; more are asked for too seldom


def _shift_right(x: Int[Tensor, "*shape"], bits: int) -> Int[Tensor, "*shape"]:
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    x = x + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def _counters(
    positions: Int[Tensor, "batch *block"], purpose: Purpose, count: int
) -> Int[Tensor, "batch *block {count}"]:
    counters = positions * len(Purpose) + purpose
    return counters.unsqueeze(-1) + torch.arange(count, device=positions.device) * _DRAW


def key_of(utterance_id: str) -> int:
    """A stable 63-bit key for a row, from its utterance's id."""
    return int.from_bytes(hashlib.blake2b(utterance_id.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Randomness:
    """Uniform numbers by (seed, row key, position, purpose, index).

    Attributes:
        seed: of the run.
        keys: one integer per row, from its utterance's id (``key_of``).
        numbers: those of the first positions, where ``ahead`` has computed them; they are the same either way.
        several: as ``numbers``, the draws of a purpose at every such position, from when they are first asked for.
        streams: what seed and keys come to, the part of the hash that no position changes; made of these where None.
    """

    seed: int
    keys: Int[Tensor, "batch"]
    numbers: Float[Tensor, "batch numbers"] | None = None
    several: dict[tuple[Purpose, int], Float[Tensor, "batch positions draws"]] = field(default_factory=dict)
    streams: Int[Tensor, "batch"] | None = None

    def __post_init__(self) -> None:
        if self.streams is None:
            streams = _mix(self.keys ^ _mix(torch.full_like(self.keys, self.seed)))
            object.__setattr__(self, "streams", streams)

    def uniform(
        self, positions: Int[Tensor, "batch *block"], purpose: Purpose | Int[Tensor, "..."]
    ) -> Float[Tensor, "..."]:
        """Float64 numbers of 52 bits in [0, 1), of the shape of ``positions``.

        ``purpose`` may be a tensor that broadcasts with ``positions``, so that one call serves several purposes.
        """
        counters = positions * len(Purpose) + purpose
        if self.numbers is not None:
            return self.numbers.gather(1, counters.reshape(len(counters), -1)).view_as(counters)
        return self._hash(counters)

    def draws(
        self, positions: Int[Tensor, "batch *block"], purpose: Purpose, count: int
    ) -> Float[Tensor, "batch *block {count}"]:
        """``count`` independent numbers for each position, the first of which is that of ``uniform``."""
        if self.numbers is None or count > _DRAWS_AHEAD:
            return self._hash(_counters(positions, purpose, count))
        if (purpose, count) not in self.several:
            every = torch.arange(self.numbers.shape[1] // len(Purpose), device=self.keys.device)
            self.several[purpose, count] = self._hash(_counters(every.expand(len(self.keys), -1), purpose, count))
        if positions.ndim == 1 and single(positions):
            return self.several[purpose, count][:, int(positions)]
        rows = torch.arange(len(positions), device=positions.device)
        return self.several[purpose, count][rows.view(-1, *([1] * (positions.ndim - 1))), positions]

    def block(self, positions: Int[Tensor, "batch"], length: int) -> Float[Tensor, "batch {length} purposes"]:
        """Numbers of every purpose at ``length`` positions of each row, from ``positions`` on, at the cost of one."""
        if self.numbers is not None and single(positions):
            first = int(positions) * len(Purpose)
            return self.numbers[:, first : first + length * len(Purpose)].view(1, length, len(Purpose))
        at = positions.unsqueeze(1) * len(Purpose) + torch.arange(length * len(Purpose), device=positions.device)
        numbers = self._hash(at) if self.numbers is None else self.numbers.gather(1, at)
        return numbers.view(-1, length, len(Purpose))

    def _hash(self, counters: Int[Tensor, "batch *block"]) -> Float[Tensor, "batch *block"]:
        assert self.streams is not None
        bits = _mix(self.streams.view(-1, *([1] * (counters.ndim - 1))) + counters)
        return _shift_right(bits, 12).to(torch.float64) * 2.0**-52

    def ahead(self, positions: int) -> Randomness:
        """The same numbers, those of the first ``positions`` positions at hand: a loop asks for a few at a time."""
        counters = torch.arange(positions * len(Purpose), device=self.keys.device).expand(len(self.keys), -1)
        return Randomness(self.seed, self.keys, self._hash(counters), streams=self.streams)

    def keep(self, rows: Int[Tensor, "kept"]) -> Randomness:
        assert self.streams is not None
        numbers = None if self.numbers is None else self.numbers[rows]
        several = {key: table[rows] for key, table in self.several.items()}
        return Randomness(self.seed, self.keys[rows], numbers, several, self.streams[rows])


Temperature = Annotated[float, Constraint(lambda t: t == 0 or 1e-3 <= t <= 1e4, "0 (greedy), or .001 to 10,000")]
TopK = Annotated[int, FROM_1] | None
TopP = Annotated[float, SHARE_ABOVE_0]
RepetitionPenalty = Annotated[float, Constraint(lambda penalty: 1e-4 <= penalty <= 1e4, ".0001 to 10,000")]


PenaltyWindow = Annotated[int, up_to(100_000)] | None


@checked
@dataclass(frozen=True)
class RAS:
    """Repetition-aware sampling (VALL-E 2, arXiv 2406.05370; CosyVoice and GLM-TTS sample this way).

    As published: draw a token from what top-k and top-p leave (the nucleus). If it was said at least ``window * tau``
    times among the last ``window`` tokens, draw again, from the whole distribution. The token then has the law

        p'(x) = nucleus(x) [x not repeated] + p(x) · sum of nucleus over the repeated tokens

    which is how it is computed here: a change of the distribution and no draw, so every rule and law holds for it.
    Departure: the nucleus takes top-p of what top-k left, as everywhere here; CosyVoice of the whole distribution.

    Attributes:
        window: how many of the last generated tokens are counted; the voice prompt is not.
        tau: share of the window from which a token counts as repeated; the least that is at all is one token.
    """

    window: Annotated[int, up_to(10_000)] = 10
    tau: Annotated[float, SHARE_ABOVE_0] = 0.1

    def repeated(self, said: Int[Tensor, "*batch window"], vocab_size: int) -> Bool[Tensor, "*batch {vocab_size}"]:
        return counts(said, vocab_size) >= math.ceil(self.window * self.tau)


@checked
@dataclass(frozen=True)
class Sampling:
    """How logits become the distribution that is sampled; the same for draft and target.

    Order as in Hugging Face: repetition penalty, temperature, top-k, top-p; then repetition-aware sampling.

    Attributes:
        temperature: 0 puts all mass on the most likely token.
        top_k: keep the k most likely; None keeps all.
        top_p: keep the smallest set that holds this much mass.
        repetition_penalty: logits of tokens already in a row are divided (positive) or multiplied (negative) by it.
        penalty_window: the penalty applies to the last so many tokens, the voice prompt's among them; None for all.
        ras: repetition-aware sampling; at temperature 0, where a second draw is the first, it changes nothing.
    """

    temperature: Temperature = 1.0
    top_k: TopK = None
    top_p: TopP = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    penalty_window: PenaltyWindow = None
    ras: RAS | None = None

    @property
    def reads_history(self) -> bool:
        """Whether what was said before a position changes what is sampled there."""
        return self.repetition_penalty != 1 or self.ras is not None

    def history(
        self, voices: Sequence[Int[Tensor, "_"] | None], vocab_size: int, device: torch.device
    ) -> History | None:
        """What was said before the first token of each row, whose voice prompt is given; None where nobody asks."""
        if not self.reads_history:
            return None
        rows, seen, window = len(voices), None, None
        if self.repetition_penalty != 1 and self.penalty_window is None:
            seen = torch.zeros(rows, vocab_size, dtype=torch.bool, device=device)
            for row, voice in zip(seen, voices, strict=True):
                if voice is not None:
                    row[voice.to(device)] = True
        elif self.repetition_penalty != 1:
            assert self.penalty_window is not None
            window = torch.full((rows, self.penalty_window), NONE, device=device)
            for row, voice in zip(window, voices, strict=True):
                if voice is not None and len(voice):
                    last = voice[-self.penalty_window :].to(device)
                    row[-len(last) :] = last
        said = None if self.ras is None else torch.full((rows, self.ras.window), NONE, device=device)
        return History(seen, window, said)

    def probabilities(
        self, logits: Float[Tensor, "*batch vocab"], history: History | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        """The sampled distribution in float32.

        Args:
            history: of the positions that the logits are of; None leaves penalty and repetition-aware sampling out.
        """
        logits, vocab_size = logits.float(), logits.shape[-1]
        if history is not None and self.repetition_penalty != 1:
            seen = counts(history.window, vocab_size) > 0 if history.window is not None else history.seen
            assert seen is not None
            penalised = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = torch.where(seen, penalised, logits)
        if self.temperature == 0:
            best, token = logits.max(-1, keepdim=True)
            return torch.zeros_like(logits).scatter_(-1, token, 1 + 0 * best)  # NaN where the logits hold one
        if self.temperature != 1:
            logits = logits / self.temperature
        nucleus = self._truncated(logits).softmax(-1)
        if self.ras is None or history is None:
            return nucleus
        assert history.said is not None
        repeated = nucleus * self.ras.repeated(history.said, vocab_size)
        return nucleus - repeated + logits.softmax(-1) * repeated.sum(-1, keepdim=True)

    def _truncated(self, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """Logits of what top-k and top-p leave, minus infinity elsewhere."""
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            threshold = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        if self.top_p < 1:
            ranked, order = logits.softmax(-1).sort(-1, descending=True)
            beyond = ranked.cumsum(-1) - ranked >= self.top_p  # the token that crosses top_p stays
            logits = logits.masked_fill(torch.zeros_like(beyond).scatter_(-1, order, beyond), -torch.inf)
        return logits


def may_look(values: Float[Tensor, "..."] | Int[Tensor, "..."] | Bool[Tensor, "..."]) -> bool:
    """Whether values may decide what is done next: on a GPU the host would wait for them, a graph has one course."""
    return values.is_cpu and not torch.compiler.is_compiling()


def single(rows: Float[Tensor, "batch ..."] | Int[Tensor, "batch ..."] | Bool[Tensor, "batch ..."]) -> bool:
    """Whether there is one row, and the host may look at it: then a number and a view stand for several kernels."""
    return len(rows) == 1 and may_look(rows)


def check_probabilities(**named: Float[Tensor, "..."]) -> None:
    """That every row of each tensor is a distribution; on every call, of a rule and of plain decoding.

    A sum and a minimum over tensors that a model has just written cost far less than its pass, and a NaN that slips
    through would end as a silently wrong token. Where nobody may look, this does nothing: the decode loops then learn
    it with the tokens of a round (``Rows.commit``), and who asks a rule on a GPU by himself looks at ``unsound``.

    Raises:
        ValueError: for a NaN, an infinity, a negative number or a row that does not sum to 1.
    """
    if may_look(next(iter(named.values()))):
        look_at(**named)


def unsound(*distributions: Float[Tensor, "batch ..."]) -> Bool[Tensor, "batch"]:
    """Rows in which some distribution is none, found without a wait."""
    wrong = [
        ~((probs.amin(-1) >= 0) & ((probs.sum(-1) - 1).abs() < TOLERANCE)).flatten(1).all(1)  # a NaN fails each
        for probs in distributions
    ]
    return torch.stack(wrong).any(0)


def look_at(**named: Float[Tensor, "..."]) -> None:
    """As ``check_probabilities``, wherever the tensors are."""
    for name, probs in named.items():
        sums = probs.sum(-1)
        each = sums.flatten().tolist()
        within = min(each) > 1 - TOLERANCE and max(each) < 1 + TOLERANCE
        if not (within and probs.amin().item() >= 0):  # a NaN, which min and max may pass over, fails here
            raise ValueError(_describe(name, probs, sums))


def _describe(name: str, probs: Float[Tensor, "..."], sums: Float[Tensor, "..."]) -> str:
    if not probs.isfinite().all():
        rows = int((~probs.isfinite()).any(-1).sum())
        return (
            f"{name} holds NaN or infinity in {rows} of {sums.numel()} rows: the model overflows (its weights are "
            "checked when they are read); give it another dtype, float32 or bfloat16"
        )
    if (probs < 0).any():
        return f"{name} holds negative numbers, down to {probs.min().item():.3g}: logits instead of probabilities?"
    return f"{name} is not normalised: rows sum to {sums.min().item():.4g} up to {sums.max().item():.4g}"


def draw(weights: Float[Tensor, "*batch vocab"], uniform: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """One index a row with probability proportional to its weight, by inversion; never one of weight 0."""
    return draw_several(weights, uniform.unsqueeze(-1)).squeeze(-1)


def draw_several(
    weights: Float[Tensor, "*batch vocab"], uniform: Float[Tensor, "*batch draws"]
) -> Int[Tensor, "*batch draws"]:
    """As ``draw``, several independent indices a row. Where all weights are 0 it is the last index."""
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    # a number of 52 bits keeps u * total below the total, so the index found has positive weight
    at = uniform * cumulative[..., -1:]
    return torch.searchsorted(cumulative, at, right=True).clamp_(max=weights.shape[-1] - 1)


def as_keys(utterance_ids: Sequence[str], device: torch.device) -> Int[Tensor, "batch"]:
    return torch.tensor([key_of(i) for i in utterance_ids], dtype=torch.int64, device=device)
