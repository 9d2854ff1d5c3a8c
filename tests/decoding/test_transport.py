"""The earth mover's distance against a linear programme, and what it must not see."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

from pcg.acceptance.coupling import Coupling
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.decoding.statistics import Statistics, outside
from pcg.decoding.transport import EarthMover, Movers, farthest
from pcg.groups.table import GroupTable
from pcg.sampling import Randomness, Sampling
from pcg.types import Generation, Utterance
from tests.fakes import AcceptAll, ExactRule, MarkovLM


def distributions(count: int, vocab: int, seed: int, spread: float = 0.3) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.dirichlet(np.full(vocab, spread), count)).float()


def mover(vocab: int, seed: int = 0, **settings: float) -> EarthMover:
    """The last token is end-of-speech and has no vector."""
    vectors = torch.randn(vocab - 1, 6, generator=torch.Generator().manual_seed(seed))
    return EarthMover(vectors, vocab - 1, farthest(vectors), **settings)


def programme(law: Tensor, target: Tensor, costs: np.ndarray) -> float:
    """The least cost of all plans whose rows sum to the law and whose columns sum to the target."""
    vocab = len(law)
    rows, columns = np.kron(np.eye(vocab), np.ones(vocab)), np.kron(np.ones(vocab), np.eye(vocab))
    law, target = law.double() / law.double().sum(), target.double() / target.double().sum()
    sums = np.concatenate([law.numpy(), target.numpy()])
    found = linprog(costs.ravel(), A_eq=np.concatenate([rows, columns])[:-1], b_eq=sums[:-1])
    return float(found.fun)


def all_distances(earth: EarthMover, vocab: int) -> np.ndarray:
    tokens = torch.arange(vocab)
    costs = earth.distances(tokens, tokens)
    np.fill_diagonal(costs, 0.0)
    return costs


@pytest.mark.parametrize("seed", range(6))
def test_it_is_the_linear_programme(seed: int) -> None:
    law, target = distributions(2, 9, seed)
    earth = mover(9, seed, kept=1.0)
    ((distance, left),) = earth(law[None], target[None]).tolist()
    assert distance == pytest.approx(programme(law, target, all_distances(earth, 9)), rel=1e-5)
    assert left == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("most", [2, 5, 12])
def test_what_is_not_told_apart_is_bounded(most: int) -> None:
    law, target = distributions(2, 30, most, spread=2.0)
    earth = mover(30, most=most)
    ((low, left),) = earth(law[None], target[None]).tolist()
    whole = programme(law, target, all_distances(earth, 30))
    assert low <= whole + 1e-7 <= low + left + 1e-6
    assert most == 2 or low > 0  # two tokens a side hold less than half


def test_it_is_zero_for_equal_laws_alone() -> None:
    target = distributions(50, 40, 0)
    moved = target.clone()
    moved[:, 0], moved[:, 1] = target[:, 0] + target[:, 1] / 2, target[:, 1] / 2
    earth = mover(40)
    assert earth(target, target).abs().max() == 0
    assert (earth(moved, target)[:, 0] > 0).tolist() == (target[:, 1] > 2e-6).tolist()


def test_tokens_that_sound_the_same_may_swap_their_mass() -> None:
    law, target = distributions(20, 12, 1), distributions(20, 12, 2)
    vectors = mover(12).vectors.clone()
    vectors[3] = vectors[7]
    earth = EarthMover(vectors, 11, farthest(vectors), kept=1.0)
    swapped = law.clone()
    swapped[:, [3, 7]] = law[:, [7, 3]]
    assert not torch.equal(swapped, law)
    torch.testing.assert_close(earth(swapped, target)[:, 0], earth(law, target)[:, 0], atol=1e-5, rtol=0)
    assert earth(swapped, law)[:, 0].max() < 1e-5  # what is swapped alone costs nothing


@pytest.mark.parametrize("members", [2, 4, 8])
def test_coupling_moves_no_less(members: int) -> None:
    """The flow of a coupling turns the target into its law; no plan that does is cheaper than the distance."""
    vocab = 12
    draft, target = distributions(30, vocab, members), distributions(30, vocab, 99)
    earth = mover(vocab, kept=1.0)
    near = torch.from_numpy(all_distances(earth, vocab)).argsort(1)[:, :members]  # itself among them; end-of-speech too
    groups = GroupTable.from_members(near.tolist(), vocab)
    over, under = (draft - target).clamp(min=0), (target - draft).clamp(min=0)
    alike = torch.zeros(vocab, vocab).scatter_(1, near, 1.0)
    most = torch.maximum((over @ alike).unsqueeze(1), (under @ alike.t()).unsqueeze(2))
    flow = (alike * over.unsqueeze(2) * under.unsqueeze(1) / most).nan_to_num(0.0)
    law = Coupling(groups).law(draft, target)
    torch.testing.assert_close(law, target + flow.sum(2) - flow.sum(1), atol=1e-6, rtol=0)
    moved = (flow.double() * torch.from_numpy(all_distances(earth, vocab))).sum((1, 2))
    distance = earth(law, target)[:, 0]
    assert (distance <= moved + 1e-5).all()
    assert distance.sum() > 0.5 * moved.sum() > 0


def test_end_of_speech_is_as_far_as_the_farthest_two_tokens() -> None:
    earth = mover(10)
    law, target = torch.zeros(1, 10), torch.zeros(1, 10)
    law[0, 9], law[0, 2], target[0, 2] = 0.25, 0.75, 1.0
    assert earth(law, target)[0, 0].item() == pytest.approx(0.25 * earth.farthest)
    apart = torch.cdist(earth.vectors, earth.vectors)
    assert earth.farthest == pytest.approx(apart.max().item(), rel=1e-6)


def test_the_farthest_two_are_found_without_all_pairs() -> None:
    vectors = torch.randn(700, 3, generator=torch.Generator().manual_seed(0)) ** 3
    assert farthest(vectors, block=16) == pytest.approx(torch.cdist(vectors, vectors).max().item(), rel=1e-5)
    assert farthest(vectors[:1]) == 0


def test_by_unit_vectors_only_directions_count() -> None:
    vectors = torch.tensor([[1.0, 0.0], [5.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    apart = EarthMover(vectors, 4, 2.0, unit=True).distances(torch.tensor([0]), torch.tensor([1, 2, 3]))
    assert apart == pytest.approx(np.array([[0.0, 2**0.5, 2.0]]), abs=1e-7)


def test_outside_is_what_the_target_gives_nothing_to() -> None:
    target = torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]])
    law = torch.tensor([[0.5, 0.25, 0.125, 0.125], [1.0, 0.0, 0.0, 0.0]])
    assert outside(law, target).tolist() == [0.25, 0.0]


def said(rule: ExactRule | AcceptAll, movers: Movers | None, rows: int) -> list[Generation]:
    target, draft = MarkovLM.random(9, seed=1), MarkovLM.random(9, seed=2)
    found = []
    for batch in torch.arange(24).split(rows):
        randomness = Randomness(0, batch * 7919)
        statistics = Statistics(3, rule, randomness, movers)
        prompts = [Prompt(Utterance(str(index), "x")) for index in batch.tolist()]
        generations = speculative_decode(
            target, draft, rule, Batch(prompts, Sampling(), 30, randomness), gamma=3, observer=statistics
        )
        found += statistics.annotate(generations)
    return found


class Lossy(AcceptAll):
    """What keeps every draft says what the draft says."""

    def law(self, draft_probs: Tensor, target_probs: Tensor) -> Tensor:
        return draft_probs


def test_a_sample_of_positions_that_no_batch_changes() -> None:
    movers = Movers({"sound": mover(9)}, every=4)
    alone, together = said(Lossy(), movers, 1), said(Lossy(), movers, 24)
    assert [each.sums for each in together] == [pytest.approx(each.sums) for each in alone]
    tested = sum(each.counts["tested"] for each in alone)
    assert sum(each.sums["moved_positions"] for each in alone) == pytest.approx(tested / 4, rel=0.2)
    assert sum(each.sums["sound"] for each in alone) > 0


def test_every_position_when_asked() -> None:
    movers = Movers({"sound": mover(9), "embedding": mover(9, seed=1)}, every=1)
    for each in said(Lossy(), movers, 24):
        assert each.sums["moved_positions"] == each.counts["tested"]
        assert each.sums["sound"] != each.sums["embedding"]
    assert all(each.sums["sound"] == 0 for each in said(ExactRule(), movers, 24))
    assert "sound" not in said(Lossy(), None, 24)[0].sums
