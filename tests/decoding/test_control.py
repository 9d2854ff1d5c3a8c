"""Laws hold given a controller's choices; what a row chooses is its own affair; a budget is kept."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from pcg.acceptance.block import Block
from pcg.acceptance.exact import Exact
from pcg.acceptance.ladder import Ladder
from pcg.acceptance.pcg import PCG
from pcg.decoding.control.adaptive import Adaptive
from pcg.decoding.control.fixed import Fixed
from pcg.decoding.rows import Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.decoding.statistics import Statistics
from pcg.groups.table import GroupTable
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.sampling import Randomness, Sampling
from pcg.types import Generation, Utterance, Verdict
from tests.decoding.test_exactness import keys, prompts, sequence_law
from tests.fakes import MarkovLM, make_bundled_folder

VOICE = torch.tensor([0, 1])
NARROW = GroupTable.from_members([[0, 1]], 4)
WIDE = GroupTable.from_members([[0, 1, 2], [1, 2]], 4)
LADDER = Ladder([PCG(WIDE), PCG(NARROW)])


@dataclass
class Flips:
    """A controller whose choices change all the time: a row stops where ``stops`` says so, of its past drafts."""

    stops: Callable[[Tensor, int], Tensor]
    level: Callable[[Tensor, Tensor], Tensor] | None = None
    ends: list[Tensor] = field(default_factory=list)

    def over(self, rule: object, rows: int) -> Flips:
        return replace(self, ends=[])._with(rule, rows)

    def _with(self, rule: object, rows: int) -> Flips:
        self.rule, self.left = rule, torch.arange(rows)
        return self

    def goes_on(self, draft_probs: Tensor) -> bool:
        self.ends.append(self.stops(draft_probs, len(self.ends)))
        return not torch.stack(self.ends).any(0).all()

    def verify(
        self, draft_tokens: Tensor, draft_probs: Tensor, target_probs: Tensor, positions: Tensor, randomness: Randomness
    ) -> Verdict:
        places = len(self.ends)
        ends = torch.stack(self.ends)
        drafted = torch.where(ends.any(0), ends.byte().argmax(0) + 1, places)
        rule, levels = self.rule, None
        if self.level is not None:
            levels = self.level(draft_probs, target_probs[:, :-1])
            rule = self.rule.at(levels)
        accepted, token = torch.zeros_like(drafted), torch.zeros_like(drafted)
        for length in drafted.unique().tolist():
            found = rule.verify(
                draft_tokens[:, :length], draft_probs[:, :length], target_probs[:, : length + 1], positions, randomness
            )
            mine = drafted == length
            accepted, token = torch.where(mine, found.accepted, accepted), torch.where(mine, found.token, token)
        self.ends = []
        return Verdict(accepted, token, drafted=drafted, levels=levels)

    def keep(self, rows: Tensor) -> None:
        assert not self.ends


def unsure(draft_probs: Tensor, place: int) -> Tensor:
    """By the distribution of the draft just drawn: about half of the time."""
    return draft_probs.amax(1) < 0.55


def chi_square(found: Counter, law: dict[tuple[int, ...], float], rows: int) -> tuple[float, int]:
    expected = torch.tensor([rows * probability for probability in law.values()])
    counts = torch.tensor([float(found[sequence]) for sequence in law])
    often = expected > 5
    return float(((counts - expected) ** 2 / expected)[often].sum()), int(often.sum()) - 1


def said_by(
    control: object, rule: object, rows: int, length: int, vocab: int = 4, gamma: int = 3
) -> tuple[Counter, dict[tuple[int, ...], float], MarkovLM, MarkovLM]:
    target, draft = MarkovLM.random(vocab, seed=1), MarkovLM.random(vocab, seed=2)
    for model in (target, draft):
        model.table[..., -1] -= 1.0
    said = speculative_decode(
        target, draft, rule, prompts(rows), gamma=gamma, sampling=Sampling(), max_tokens=length,
        randomness=keys(rows), control=control,
    )  # fmt: skip
    found = Counter((*each.tokens.tolist(), target.end)[: length if not each.finished else None] for each in said)
    return found, sequence_law(target, Sampling(), length, VOICE), target, draft


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("rule", [Exact(), Block()], ids=["exact", "block"])
@pytest.mark.parametrize(
    "control", [Flips(unsure), Adaptive(draft_cost=0.3, position_cost=0.3)], ids=["flips", "adaptive"]
)
def test_sequences_keep_the_targets_law_whatever_the_lengths(control: object, rule: object) -> None:
    found, law, _, _ = said_by(control, rule, 8_000, 4)
    value, freedom = chi_square(found, law, 8_000)
    assert value < freedom + 4 * (2 * freedom) ** 0.5


def test_dropping_a_draft_for_its_own_probability_breaks_the_law() -> None:
    """The trap: what was drawn is not to be taken back for what it is."""

    @dataclass
    class TakesBack(Flips):
        def verify(self, draft_tokens, draft_probs, target_probs, positions, randomness):
            drawn = draft_probs.gather(2, draft_tokens.unsqueeze(2)).squeeze(2)
            self.ends = list((drawn < 0.3).roll(-1, 1).index_fill(1, torch.tensor([2]), False).T)
            return super().verify(draft_tokens, draft_probs, target_probs, positions, randomness)

    found, law, _, _ = said_by(TakesBack(unsure), Exact(), 8_000, 4)
    value, freedom = chi_square(found, law, 8_000)
    assert value > 2 * freedom


def by_target(draft_probs: Tensor, target_probs: Tensor) -> Tensor:
    """A level by what is known of a place before its token is looked at."""
    return (target_probs.argmax(-1) + draft_probs.argmax(-1)) % 3


def test_tokens_have_the_law_of_the_level_that_was_chosen() -> None:
    """Two tokens, each at a tested place: whether first or second of its round, its law is its level's."""
    rows = 10_000
    never = Flips(lambda probs, place: torch.zeros(len(probs), dtype=torch.bool), by_target)
    found, _, target, draft = said_by(never, LADDER, rows, 2)
    law: dict[tuple[int, ...], float] = {}
    for first, second in itertools.product(range(4), repeat=2):
        context, probability = VOICE.tolist(), 1.0
        for token in (first, second):
            q, p = (Sampling().probabilities(model.table[context[-2], context[-1]])[None] for model in (draft, target))
            probability *= float(LADDER.law(q, p, by_target(q, p))[0, token])
            context.append(token)
            if token == target.end:
                break
        law[tuple(context[2:])] = probability
    assert sum(law.values()) == pytest.approx(1, abs=1e-5)
    value, freedom = chi_square(found, law, rows)
    assert value < freedom + 4 * (2 * freedom) ** 0.5


def decoded(control: object, rule: object, count: int = 12, **options: object) -> list[Generation]:
    target, draft = MarkovLM.random(24, seed=6), MarkovLM.random(24, seed=7, spread=1.0)
    near = MarkovLM(target.table + draft.table)
    for model in (target, near):
        model.table[..., -1] -= 2.0
    randomness = keys(count)
    statistics = Statistics(4, rule, randomness)
    said = speculative_decode(
        target, near, rule, prompts(count), gamma=4, sampling=Sampling(), max_tokens=80,
        randomness=randomness, control=control, observer=statistics, **options,
    )  # fmt: skip
    return statistics.annotate(said)


def tokens(said: list[Generation]) -> list[list[int]]:
    return [each.tokens.tolist() for each in said]


def ladder() -> Ladder:
    tables = [GroupTable.from_members([range(k, min(k + size, 23)) for k in range(0, 23, size)], 24) for size in (6, 2)]
    return Ladder([PCG(table) for table in tables])


THETAS = {"thetas": [0.6, 0.8]}  # what the ladder's tables stand for


@pytest.mark.usefixtures("types_unchecked")
def test_no_budget_is_exact_and_a_large_one_the_widest() -> None:
    always = {"least": 4, **THETAS}
    nothing = decoded(Adaptive(budget=0.0, **always), ladder())
    assert tokens(nothing) == tokens(decoded(Fixed(), Exact()))
    assert all(each.sums["tv"] == 0 for each in nothing)
    everything = decoded(Adaptive(budget=1e9, **always), ladder())
    assert tokens(everything) == tokens(decoded(Fixed(), ladder().rules[0]))
    assert tokens(everything) != tokens(nothing)
    assert all(each.tested_by_level[0] == each.counts["tested"] for each in everything)
    # and with lengths that are chosen
    assert tokens(decoded(Adaptive(budget=0.0, **THETAS), ladder())) == tokens(decoded(Adaptive(), Exact()))
    assert tokens(decoded(Adaptive(budget=1e9, **THETAS), ladder())) == tokens(decoded(Adaptive(), ladder().rules[0]))


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("budget", [0.3, 2.0])
def test_a_budget_is_never_exceeded_and_mostly_spent(budget: float) -> None:
    said = decoded(Adaptive(budget=budget, horizon=40, **THETAS), ladder(), count=24)
    long = [each.sums["tv"] for each in said if each.counts["tested"] > 60]
    assert max(each.sums["tv"] for each in said) <= budget + 1e-6
    assert len(long) > 8
    assert min(long) > 0.6 * budget
    levels = torch.tensor([each.tested_by_level for each in said]).sum(0)
    assert (levels > 0).all()


@pytest.mark.usefixtures("types_unchecked")
def test_a_budget_gains_more_than_the_same_distance_everywhere() -> None:
    """What is spent where it gains most keeps more for it than the narrow groups do."""

    def gained(said: list[Generation]) -> float:
        exact = sum(each.sums["alpha_exact"] for each in said)
        kept = sum(each.counts["accepted"] for each in said)
        return (kept - exact) / sum(each.sums["tv"] for each in said)

    chosen = decoded(Adaptive(budget=3.0, horizon=60, least=4, **THETAS), ladder(), count=100)
    everywhere = decoded(Fixed(), ladder().rules[1], count=100)
    assert gained(chosen) > gained(everywhere)


@pytest.mark.parametrize("control", [Adaptive(), Adaptive(budget=2.0, horizon=30, **THETAS)], ids=["length", "budget"])
def test_a_row_comes_out_the_same_in_any_batch(control: Adaptive) -> None:
    rule = Exact() if control.budget is None else ladder()
    target, draft = MarkovLM.random(24, seed=6), MarkovLM.random(24, seed=7)

    def run(order: list[int]) -> dict[int, list[int]]:
        chosen = [Prompt(Utterance(str(i), "text"), VOICE) for i in order]
        randomness = Randomness(0, torch.tensor(order) * 7919 + 13)
        said = speculative_decode(
            target, draft, rule, chosen, gamma=4, sampling=Sampling(), max_tokens=30, randomness=randomness,
            control=control,
        )  # fmt: skip
        return {i: each.tokens.tolist() for i, each in zip(order, said, strict=True)}

    whole = run(list(range(6)))
    assert run([5, 2, 4]) == {i: whole[i] for i in (5, 2, 4)}
    for i in range(6):
        assert run([i])[i] == whole[i]


def test_on_llamas_too(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Blocks of other lengths roll the caches back right: greedy decoding stays the target's own."""
    made = [
        make_bundled_folder(tmp_path_factory.mktemp(name), layers=layers, seed=layers)
        for name, layers in (("t", 3), ("d", 1))
    ]
    target, draft = [LlamaLM(str(f), Phonemes(str(f)), "float32", "cpu", "speech") for f in made]
    texts = [Prompt(Utterance(str(i), text)) for i, text in enumerate(["A fox.", "Did you see it?", "No."])]
    settings = {"gamma": 4, "sampling": Sampling(temperature=0.0), "max_tokens": 15, "randomness": keys(3)}
    fixed = speculative_decode(target, draft, Exact(), texts, **settings)
    for control in (Flips(lambda probs, place: torch.arange(len(probs)) % 3 <= place), Adaptive()):
        assert tokens(speculative_decode(target, draft, Exact(), texts, control=control, **settings)) == tokens(fixed)


@pytest.mark.usefixtures("types_unchecked")
def test_a_row_drafts_as_long_as_it_pays() -> None:
    target, other = MarkovLM.random(24, seed=6), MarkovLM.random(24, seed=70, spread=4.0)
    for model in (target, other):
        model.table[..., -1] -= 4.0

    def lengths(draft: MarkovLM, **costs: float) -> list[int]:
        randomness = keys(4)
        statistics = Statistics(4, Exact(), randomness)
        said = speculative_decode(
            target, draft, Exact(), prompts(4), gamma=4, sampling=Sampling(), max_tokens=300, randomness=randomness,
            control=Adaptive(**costs), observer=statistics,
        )  # fmt: skip
        counts = torch.tensor([each.rounds_by_gamma for each in statistics.annotate(said)])
        return (counts.sum(0) / counts.sum() * 100).round().long().tolist()

    assert lengths(target, draft_cost=0.1)[-1] > 60  # always right: as many as there may be, once that is known
    assert lengths(other, draft_cost=0.3)[0] > 90  # hardly ever right, and dear
    assert lengths(other, draft_cost=0.0, position_cost=0.0)[-1] == 100  # free


def test_counts_tell_what_was_chosen() -> None:
    said = decoded(Adaptive(draft_cost=0.4), Exact())
    for each in said:
        counts = each.counts
        assert sum(each.rounds_by_gamma) == counts["rounds"]
        assert (
            sum((i + 1) * n for i, n in enumerate(each.rounds_by_gamma)) == counts["drafted"] <= counts["draft_passes"]
        )
        assert counts["emitted"] == counts["accepted"] + counts["recovered"] + counts["bonus"]
        assert len(each.accepted_by_position) == 4
    assert sum(each.counts["bonus"] for each in said) > 0
    assert torch.tensor([each.rounds_by_gamma for each in said]).sum(0).count_nonzero() > 2
    assert decoded(Fixed(), Exact())[0].rounds_by_gamma == ()


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValueError, match="a budget needs thetas"):
        Adaptive(budget=1.0)
    with pytest.raises(ValueError, match="pcg, which tests token by token, not of Block"):
        Ladder([Block()])  # type: ignore[list-item]
