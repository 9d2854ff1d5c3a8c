"""Counts the outcomes of rounds, for each utterance. Rates are derived elsewhere (``pcg.results.schema``).

A draft token is *tested* up to and including the first rejected one of its round, and never beyond an accepted
end-of-speech or the maximum length. So ``emitted == accepted + recovered + bonus`` holds for every utterance,
end-of-speech counted in all of them. A position with several candidates counts as one test, whichever is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.decoding.transport import Movers
from pcg.decoding.tree import CandidateRule, StarVerdict
from pcg.interfaces import Rule, StateRule
from pcg.sampling import Purpose, Randomness
from pcg.types import Generation, Probs, Rates, Round

COUNTS = (
    "rounds",
    "target_passes",  # a round is one
    "draft_passes",
    "drafted",
    "tested",
    "accepted",
    "group_only_accepted",  # accepted where exact matching, on the same random number, would not have
    "rival_accepted",  # accepted that were not the first candidate of their position
    "recovered",
    "bonus",
    "emitted",
)
KINDS = ("exact", "group", "candidate", "recovered", "bonus")
_LEAST = 1e-9  # a rule may emit a token to which a truncated target gives probability 0
# A token below this share of the target's largest probability counts as unlikely. On the bundled
# pair (temperature .8) these are 4,036 of 4,097 tokens and hold .7 % of the target's mass, but 21 % of the draft's.
UNLIKELY = 1e-3


class Statistics:
    """An observer of ``speculative_decode``; ``annotate`` then adds the counts to the generations.

    Args:
        randomness: the one given to the loop, for the numbers that the acceptance tests used.
        rule: distortion is measured if it has a ``law``.
        movers: distances that are measured at a sample of the tested positions, since they are slow.
    """

    def __init__(
        self,
        gamma: int,
        rule: Rule | StateRule | CandidateRule,
        randomness: Randomness,
        movers: Movers | None = None,
    ) -> None:
        self._law = getattr(rule, "law", None)
        self._randomness = randomness
        self._candidates = rule.count if isinstance(rule, CandidateRule) else 1
        rows = len(randomness.keys)
        self._counts = torch.zeros(rows, len(COUNTS), dtype=torch.int64)
        self._by_position = torch.zeros(rows, gamma, dtype=torch.int64)
        self._movers = movers
        self._distances = (*DISTANCES, *(movers.columns if movers else ())) if self._law is not None else ()
        self._sums = torch.zeros(rows, 1 + len(self._distances), dtype=torch.float64)
        self._kinds: list[list[str]] = [[] for _ in range(rows)]
        self._target_probs: list[list[float]] = [[] for _ in range(rows)]
        self._draft_probs: list[list[float | None]] = [[] for _ in range(rows)]

    @torch.inference_mode()
    def __call__(self, seen: Round) -> None:
        gamma = seen.draft_tokens.shape[1]
        index, device = torch.arange(gamma), seen.draft_tokens.device
        verdict = seen.verdict
        kept = verdict.accepted.cpu()
        by_rival = torch.zeros_like(kept, dtype=torch.bool)
        if isinstance(verdict, StarVerdict):
            by_rival = verdict.rival.cpu() > 0
        counted = seen.emitted + seen.finished  # less than kept + 1 where the block was cut
        accepted = torch.minimum(kept, counted)
        tested = torch.minimum(kept + ~by_rival, counted).clamp(max=gamma)
        whole = counted == kept + 1  # the recovered or bonus token counts too
        bonus = (kept == gamma) | by_rival
        is_tested, is_accepted = index < tested[:, None], index < accepted[:, None]
        is_rival = by_rival[:, None] & (index == kept[:, None] - 1)

        tokens = seen.draft_tokens.unsqueeze(2)
        draft = seen.draft_probs.gather(2, tokens).squeeze(2).double()
        target = seen.target_probs[:, :gamma].gather(2, tokens).squeeze(2).double()
        randomness = self._randomness.keep(seen.rows.to(device))
        uniform = randomness.uniform(seen.positions[:, None] + index.to(device), Purpose.ACCEPT)
        group_only = is_accepted & ~is_rival & (uniform * draft >= target).cpu()
        exact_acceptance = (target / draft).clamp(max=1).cpu() * is_tested

        one = torch.ones_like(counted)
        columns = {
            "rounds": one,
            "target_passes": one,
            "draft_passes": torch.full_like(counted, gamma),
            "drafted": torch.full_like(counted, gamma * self._candidates),
            "tested": tested,
            "accepted": accepted,
            "group_only_accepted": group_only.sum(1),
            "rival_accepted": (is_accepted & is_rival).sum(1),
            "recovered": whole & ~bonus,
            "bonus": whole & bonus,
            "emitted": counted,
        }
        self._counts.index_add_(0, seen.rows, torch.stack([columns[name].long() for name in COUNTS], 1))
        self._by_position.index_add_(0, seen.rows, is_accepted.long())
        sums = torch.cat([exact_acceptance.sum(1, keepdim=True), self._distortion(seen, is_tested)], 1)
        self._sums.index_add_(0, seen.rows, sums)
        kinds = torch.where(is_rival, KINDS.index("candidate"), group_only.long())
        self._note_kinds(seen, kinds, torch.where(bonus, KINDS.index("bonus"), KINDS.index("recovered")))
        self._note_probs(seen, bonus)

    def _distortion(self, seen: Round, is_tested: Bool[Tensor, "batch gamma"]) -> Float[Tensor, "batch distances"]:
        """Distances of the rule's law from the target, summed over tested tokens."""
        sums = torch.zeros(len(is_tested), len(self._distances), dtype=torch.float64)
        if self._law is None:
            return sums
        row, index = is_tested.nonzero(as_tuple=True)
        draft, target = seen.draft_probs[row, index], seen.target_probs[row, index]
        law = self._law(draft, target)
        distances = torch.stack([distance(law, target) for distance in DISTANCES.values()], 1).double().cpu()
        sums[:, : len(DISTANCES)].index_add_(0, row, distances)
        if self._movers is not None:
            every = self._movers.every  # counted from an offset that the utterance's key fixes, alike in every batch
            first = self._randomness.keys.cpu()[seen.rows] % every + seen.positions.cpu()
            chosen = ((first[row] + index) % every == 0).nonzero()[:, 0]
            moved = self._movers.sums(law[chosen], target[chosen])
            sums[:, len(DISTANCES) :].index_add_(0, row[chosen], moved)
        return sums

    def _note_kinds(self, seen: Round, kinds: Int[Tensor, "batch gamma"], last: Int[Tensor, "batch"]) -> None:
        """``last``: the kind of the recovered or bonus token."""
        kinds = F.pad(kinds, (0, 1)).scatter(1, seen.verdict.accepted.cpu()[:, None], last[:, None])
        for row, emitted, block in zip(seen.rows.tolist(), seen.emitted.tolist(), kinds.tolist(), strict=True):
            self._kinds[row].extend(KINDS[kind] for kind in block[:emitted])

    def _note_probs(self, seen: Round, bonus: Bool[Tensor, "batch"]) -> None:
        """Both models' probabilities of the emitted tokens; the draft has none for a bonus token."""
        tokens = seen.block.unsqueeze(2)
        target, draft = seen.target_probs.gather(2, tokens), seen.draft_probs.gather(2, tokens[:, :-1])
        blocks = torch.cat([target, draft], 1).squeeze(2).tolist()
        width = tokens.shape[1]
        drafted_counts = torch.where(bonus, seen.verdict.accepted.cpu(), width)
        rows = zip(seen.rows.tolist(), seen.emitted.tolist(), drafted_counts.tolist(), blocks, strict=True)
        for row, emitted, drafted, block in rows:
            self._target_probs[row].extend(map(_short, block[:width][:emitted]))
            self._draft_probs[row].extend([*map(_short, block[width:][:drafted]), None][:emitted])

    def annotate(self, generations: Sequence[Generation]) -> list[Generation]:
        """The generations with counts, sums, and the kind and probabilities of each token."""
        names = ("alpha_exact", *self._distances)
        rows = zip(
            generations,
            self._counts.tolist(),
            self._by_position.tolist(),
            self._sums.tolist(),
            self._kinds,
            self._target_probs,
            self._draft_probs,
            strict=True,
        )
        return [
            replace(
                generation,
                counts=dict(zip(COUNTS, counts, strict=True)),
                accepted_by_position=tuple(by_position),
                sums=dict(zip(names, sums, strict=False)),
                kinds=tuple(kinds),
                target_probs=tuple(target),
                draft_probs=tuple(draft),
            )
            for generation, counts, by_position, sums, kinds, target, draft in rows
        ]


def _short(probability: float) -> float:
    """Four significant digits, since a run stores two of these for each token."""
    return float(f"{probability:.4g}")


def plain_counts(generation: Generation) -> dict[str, int]:
    """The counts of a row that the target decoded alone: a pass a token, end-of-speech included."""
    passes = len(generation.tokens) + generation.finished
    return dict.fromkeys(COUNTS, 0) | {"target_passes": passes, "emitted": passes}


def total_variation(law: Probs, target: Probs) -> Rates:
    """Half the L1 distance, 0 (same) to 1 (disjoint)."""
    return (law - target).abs().sum(-1) / 2


def kl(law: Probs, target: Probs) -> Rates:
    """KL(law || target) in nats; probabilities below 1e-9 count as 1e-9 in the logarithm, so that it stays finite."""
    return (law * (law.clamp(min=_LEAST).log() - target.clamp(min=_LEAST).log())).sum(-1)


def overshoot_unlikely(law: Probs, target: Probs) -> Rates:
    """The probability that the law has above the target at unlikely tokens (``UNLIKELY``), 0 to 1.

    The sum of ``(law - p)+`` over all tokens is the total variation, since both sum to 1; the rest is at likely tokens.
    """
    unlikely = target < UNLIKELY * target.amax(-1, keepdim=True)
    return ((law - target).clamp(min=0) * unlikely).sum(-1)


def outside(law: Probs, target: Probs) -> Rates:
    """The law's probability of tokens that have none under the target, as after top-k and top-p, 0 to 1."""
    return (law * (target == 0)).sum(-1)


DISTANCES: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "tv": total_variation,
    "kl": kl,
    "overshoot_unlikely": overshoot_unlikely,
    "outside": outside,
}
