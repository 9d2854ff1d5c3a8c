"""Logits -> probabilities -> draws, as pure functions.

A random number is a hash of (seed, row key, token position, purpose, index). It does not depend on the batch, the
device or earlier draws, so a row decodes identically in any batch, and rules are compared on the same random numbers.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import IntEnum
from functools import cached_property
from typing import Annotated

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.compiled import rows as compiled
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
_DRAWS_AHEAD = 96  # draws a position that are computed ahead; more are rarely used


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
    """A row's 63-bit key, a hash of its utterance's id."""
    return int.from_bytes(hashlib.blake2b(utterance_id.encode(), digest_size=8).digest(), "big") >> 1


@dataclass(frozen=True)
class Randomness:
    """Uniform numbers by (seed, row key, position, purpose, index).

    Attributes:
        seed: of the run.
        keys: one integer per row, from its utterance's id (``key_of``).
        numbers: the numbers of the first positions, where ``ahead`` has computed them; a cache.
        several: likewise several draws of one purpose at each of these positions, computed at their first use.
        streams: the part of the hash that depends on seed and keys only; computed from them where None.
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
        """``count`` independent numbers for each position; the first is that of ``uniform``."""
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
        """Numbers of all purposes at ``length`` positions of each row, from ``positions`` on, in one operation."""
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
        """The same numbers, with those of the first ``positions`` positions computed now instead of a few at a time."""
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

    As published: draw a token from what top-k and top-p leave (the nucleus). If it occurs at least ``window * tau``
    times among the last ``window`` tokens, draw again, from the whole distribution. The token then has the law

        p'(x) = nucleus(x) [x not repeated] + p(x) · sum of nucleus over the repeated tokens

    and here the distribution is changed to that law, without a second draw, so every rule and law remains valid.
    Departure: top-p applies to what top-k left, as everywhere here; CosyVoice applies it to the whole distribution.

    Attributes:
        window: number of latest generated tokens that are counted, those of the voice prompt excluded.
        tau: share of the window from which on a token counts as repeated; one token at least.
    """

    window: Annotated[int, up_to(10_000)] = 10
    tau: Annotated[float, SHARE_ABOVE_0] = 0.1

    def repeated(self, latest: Int[Tensor, "*batch window"], vocab_size: int) -> Bool[Tensor, "*batch {vocab_size}"]:
        return counts(latest, vocab_size) >= math.ceil(self.window * self.tau)


@checked
@dataclass(frozen=True)
class Sampling:
    """How logits become the distribution that is sampled; the same for draft and target.

    Order as in Hugging Face: repetition penalty, temperature, top-k, top-p; then repetition-aware sampling.

    Attributes:
        temperature: 0 puts all mass on the most likely token.
        top_k: keep the k most likely tokens; None keeps all.
        top_p: keep the smallest set of tokens that has this probability.
        repetition_penalty: divides positive logits of tokens that the row already has, and multiplies negative ones.
        penalty_window: how many of the latest tokens the penalty applies to, voice prompt included; None for all.
        ras: repetition-aware sampling; it has no effect at temperature 0.
    """

    temperature: Temperature = 1.0
    top_k: TopK = None
    top_p: TopP = 1.0
    repetition_penalty: RepetitionPenalty = 1.0
    penalty_window: PenaltyWindow = None
    ras: RAS | None = None

    @property
    def reads_history(self) -> bool:
        """Whether the distribution at a position depends on the tokens before it beyond the model's logits."""
        return self.repetition_penalty != 1 or self.ras is not None

    @cached_property
    def temperature_alone(self) -> bool:
        """Whether the distribution is a softmax at a temperature above 0, and nothing else is done to it."""
        return self.temperature > 0 and self == Sampling(self.temperature)

    def history(
        self, voices: Sequence[Int[Tensor, "_"] | None], vocab_size: int, device: torch.device
    ) -> History | None:
        """The history before the first token of each row, from its voice prompt; None if sampling does not read it."""
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
        latest = None if self.ras is None else torch.full((rows, self.ras.window), NONE, device=device)
        return History(seen, window, latest)

    def probabilities(
        self, logits: Float[Tensor, "*batch vocab"], history: History | None = None
    ) -> Float[Tensor, "*batch vocab"]:
        """The sampled distribution in float32.

        Args:
            history: before each of these positions; None turns penalty and repetition-aware sampling off.
        """
        if compiled.can_take(logits) and self.temperature_alone:
            return compiled.softmax(logits, self.temperature)
        logits, vocab_size = logits.float(), logits.shape[-1]
        if history is not None and self.repetition_penalty != 1:
            seen = counts(history.window, vocab_size) > 0 if history.window is not None else history.seen
            assert seen is not None
            penalised = torch.where(logits > 0, logits / self.repetition_penalty, logits * self.repetition_penalty)
            logits = torch.where(seen, penalised, logits)
        if self.temperature == 0:
            best, token = logits.max(-1, keepdim=True)
            return torch.zeros_like(logits).scatter_(-1, token, 1 + 0 * best)  # NaN if the logits have one
        if self.temperature != 1:
            logits = logits / self.temperature
        nucleus = self._truncated(logits).softmax(-1)
        if self.ras is None or history is None:
            return nucleus
        assert history.generated is not None
        repeated = nucleus * self.ras.repeated(history.generated, vocab_size)
        return nucleus - repeated + logits.softmax(-1) * repeated.sum(-1, keepdim=True)

    def _truncated(self, logits: Float[Tensor, "*batch vocab"]) -> Float[Tensor, "*batch vocab"]:
        """The logits, minus infinity for tokens that top-k and top-p exclude."""
        if self.top_k is not None and self.top_k < logits.shape[-1]:
            threshold = logits.topk(self.top_k, -1).values[..., -1:]
            logits = logits.masked_fill(logits < threshold, -torch.inf)
        if self.top_p < 1:
            ranked, order = logits.softmax(-1).sort(-1, descending=True)
            beyond = ranked.cumsum(-1) - ranked >= self.top_p  # the token that crosses top_p stays
            logits = logits.masked_fill(torch.zeros_like(beyond).scatter_(-1, order, beyond), -torch.inf)
        return logits


SAMPLING = tuple(one.name for one in fields(Sampling))  # the keys of ``decoding`` that decide the distribution


def may_look(values: Float[Tensor, "..."] | Int[Tensor, "..."] | Bool[Tensor, "..."]) -> bool:
    """Whether the host may branch on these values: on a GPU it would wait for them, and a graph cannot branch."""
    return values.is_cpu and not torch.compiler.is_compiling()


def single(rows: Float[Tensor, "batch ..."] | Int[Tensor, "batch ..."] | Bool[Tensor, "batch ..."]) -> bool:
    """Whether there is one row that the host may read; a number and a view then replace several kernels."""
    return len(rows) == 1 and may_look(rows)


def check_probabilities(**named: Float[Tensor, "..."]) -> None:
    """Checks that every row of each tensor is a distribution, at every call of a rule and of plain decoding.

    A sum and a minimum cost far less than the model's pass, and an unnoticed NaN would become a wrong token. Where
    ``may_look`` is False this does nothing: the decode loops then check together with the tokens of a round
    (``Rows.commit``); other callers of a rule on a GPU can use ``unsound``.

    Raises:
        ValueError: for a NaN, an infinity, a negative number or a row that does not sum to 1.
    """
    if may_look(next(iter(named.values()))):
        look_at(**named)


def unsound(*distributions: Float[Tensor, "batch ..."]) -> Bool[Tensor, "batch"]:
    """Marks rows in which some tensor is not a distribution, without making the host wait."""
    rows = [
        ~((probs.amin(-1) >= 0) & ((probs.sum(-1) - 1).abs() < TOLERANCE)).flatten(1).all(1)  # a NaN fails each
        for probs in distributions
    ]
    return torch.stack(rows).any(0)


def look_at(**named: Float[Tensor, "..."]) -> None:
    """As ``check_probabilities``, on any device."""
    for name, probs in named.items():
        if compiled.can_take(probs) and compiled.are_distributions(probs, TOLERANCE):
            continue
        sums = probs.sum(-1)
        totals = sums.flatten().tolist()
        within = min(totals) > 1 - TOLERANCE and max(totals) < 1 + TOLERANCE
        if not (within and probs.amin().item() >= 0):  # a NaN, which min and max may pass over, fails here
            raise ValueError(_describe(name, probs, sums))


def _describe(name: str, probs: Float[Tensor, "..."], sums: Float[Tensor, "..."]) -> str:
    if not probs.isfinite().all():
        rows = int((~probs.isfinite()).any(-1).sum())
        return (
            f"{name} holds NaN or infinity in {rows} of {sums.numel()} rows: the model overflows, since its weights "
            "are finite; set its dtype to float32 or bfloat16"
        )
    if (probs < 0).any():
        return f"{name} holds negative numbers, down to {probs.min().item():.3g}: pass probabilities, not logits"
    return f"{name} is not normalised: its rows sum to {sums.min().item():.4g} up to {sums.max().item():.4g}"


def draw(weights: Float[Tensor, "*batch vocab"], uniform: Float[Tensor, "*batch"]) -> Int[Tensor, "*batch"]:
    """One index for each row, with probability proportional to its weight, by inversion; never one of weight 0."""
    return draw_several(weights, uniform.unsqueeze(-1)).squeeze(-1)


def draw_several(
    weights: Float[Tensor, "*batch vocab"], uniform: Float[Tensor, "*batch draws"]
) -> Int[Tensor, "*batch draws"]:
    """As ``draw`` with several independent indices for each row; the last index where all weights are 0."""
    return draw_and_add_up(weights, uniform)[0]


def draw_and_add_up(
    weights: Float[Tensor, "*batch vocab"], uniform: Float[Tensor, "*batch draws"]
) -> tuple[Int[Tensor, "*batch draws"], Float[Tensor, "*batch"]]:
    """As ``draw_several``, and the total of each row's weights, in float64."""
    if compiled.can_take(weights):
        return compiled.draw(weights, uniform)
    cumulative = weights.cumsum(-1, dtype=torch.float64)
    totals = cumulative[..., -1:]
    # a number of 52 bits keeps u * total below the total, so the index found has positive weight
    index = torch.searchsorted(cumulative, uniform * totals, right=True).clamp_(max=weights.shape[-1] - 1)
    return index, totals.squeeze(-1)


def draw_excess(
    weights: Float[Tensor, "batch vocab"], less: Float[Tensor, "batch vocab"], uniform: Float[Tensor, "batch"]
) -> Int[Tensor, "batch"]:
    """As ``draw`` from ``(weights - less)+``, or from ``weights`` where that leaves nothing."""
    if compiled.can_take(weights, less):
        return compiled.draw(weights, uniform.unsqueeze(1), less)[0].squeeze(1)
    return draw(or_else((weights - less).clamp_(min=0), weights), uniform)


def draw_among(
    ids: Int[Tensor, "batch n width"],
    more: Float[Tensor, "batch #n vocab"],
    less: Float[Tensor, "batch #n vocab"],
    uniform: Float[Tensor, "batch n"],
) -> tuple[Int[Tensor, "batch n"], Float[Tensor, "batch n"]]:
    """One of ``ids`` for each row of them, drawn from ``(more - less)+``, and the total of that; the last id where the
    total is 0."""
    if compiled.can_take(more, less):
        return compiled.draw_among(ids, more, less, uniform)
    place, totals = draw_and_add_up(_excess(ids, more, less), uniform.unsqueeze(2))
    return ids.gather(2, place).squeeze(2), totals


def total_among(
    ids: Int[Tensor, "batch n width"],
    more: Float[Tensor, "batch #n vocab"],
    less: Float[Tensor, "batch #n vocab"],
) -> Float[Tensor, "batch n"]:
    """The total of ``(more - less)+`` over ``ids``, in float64."""
    if compiled.can_take(more, less):
        return compiled.total_among(ids, more, less)
    return _excess(ids, more, less).sum(2, dtype=torch.float64)


def _excess(ids: Tensor, more: Tensor, less: Tensor) -> Float[Tensor, "batch n width"]:
    more, less = (values.expand(-1, ids.shape[1], -1) for values in (more, less))
    return (more.gather(2, ids) - less.gather(2, ids)).clamp_(min=0)


def or_else(
    weights: Float[Tensor, "batch vocab"], others: Float[Tensor, "batch vocab"]
) -> Float[Tensor, "batch vocab"]:
    """Weights that draw from ``others`` where ``weights`` are all 0; else what is added is too small for float64."""
    return torch.add(weights, others, alpha=1e-20)


def as_keys(utterance_ids: Sequence[str], device: torch.device) -> Int[Tensor, "batch"]:
    return torch.tensor([key_of(i) for i in utterance_ids], dtype=torch.int64, device=device)
