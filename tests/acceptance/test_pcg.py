"""What is special to PCG: exactness of groups, never less acceptance, both ways to recover."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcg.acceptance import thinning
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.groups import table as table_module
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, draw
from tests.acceptance.harness import TABLES, TOGETHER, chi_square, pairs, simulate, survival, table

VOCAB = 24


@pytest.mark.parametrize("residual", ["target", "draft"])
@pytest.mark.parametrize("shape", TABLES)
def test_groups_have_the_targets_law(shape: str, residual: str) -> None:
    """The law of the group variable: the drawn group where a token is kept, the recovered one elsewhere.

    With disjoint groups the emitted token shows it. With overlapping ones a token's law, split over its groups,
    would not: so it is worked out here, and tied to the rule by the token law and by the acceptance rate.
    """
    groups = table(VOCAB, shape)
    for draft, target in pairs(VOCAB).values():
        drafted, wanted = groups.coarse(draft.double()), groups.coarse(target.double())
        kept = torch.minimum(drafted, wanted)
        recovered = (wanted - drafted).clamp(min=0)
        torch.testing.assert_close(kept + recovered, wanted)
        rule = PCG(groups, residual)
        torch.testing.assert_close(rule.expected_acceptance(draft, target).double(), kept.sum(), atol=1e-6, rtol=1e-5)
        if shape in ("identity", "clusters", "everything"):
            law = rule.law(draft, target)
            torch.testing.assert_close(groups.coarse(law).double(), wanted, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("residual", ["target", "draft"])
def test_the_drawn_groups_have_the_targets_law(residual: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The groups that ``verify`` draws, watched: kept and recovered together have law P_c, though groups overlap."""
    groups = table(VOCAB, "ragged")
    seen: list[torch.Tensor] = []
    honest = GroupTable.draw_group

    def watched(self, tokens, uniform):  # type: ignore[no-untyped-def]
        seen.append(honest(self, tokens, uniform))
        return seen[-1]

    monkeypatch.setattr(GroupTable, "draw_group", watched)
    monkeypatch.setattr(thinning, "TRIALS", (64,))  # so that thinning never misses, and every group is seen
    draft, target = pairs(VOCAB)["smooth"]
    rows = TOGETHER
    chosen = []
    for seed in range(20):
        seen.clear()
        _, accepted, _ = simulate(PCG(groups, residual), draft[None], torch.stack([target, target]), rows, seed)
        numbers = Randomness(seed, torch.arange(rows)).draws(torch.arange(rows) % 50, Purpose.TRIAL, 192)[:, 2::3]
        wanted, drafted = groups.coarse(target)[seen[1]], groups.coarse(draft)[seen[1]]
        kept = numbers * wanted < wanted - drafted
        assert kept.any(1).all()
        recovered = seen[1].gather(1, kept.byte().argmax(1, keepdim=True)).squeeze(1)
        chosen.append(torch.where(accepted == 1, seen[0].squeeze(1), recovered))
    assert survival(*chi_square(torch.cat(chosen).long(), groups.coarse(target))) > 1e-4


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_groups_never_lower_acceptance(data: st.DataObject) -> None:
    vocab = data.draw(st.integers(2, 12))
    members = data.draw(st.lists(st.sets(st.integers(0, vocab - 1), min_size=1), max_size=8))
    groups = GroupTable.from_members([sorted(group) for group in members], vocab)
    weights = st.lists(st.floats(0, 1), min_size=vocab, max_size=vocab).filter(lambda x: sum(x) > 0.01)
    draft, target = (torch.tensor(w, dtype=torch.float64) / sum(w) for w in (data.draw(weights), data.draw(weights)))
    coarse = PCG(groups).expected_acceptance(draft, target)
    assert coarse >= Exact().expected_acceptance(draft, target) - 1e-9
    assert coarse <= 1 + 1e-9
    for residual in ("target", "draft"):
        law = PCG(groups, residual).law(draft, target)
        assert law.min() >= 0
        assert abs(law.sum() - 1) < 1e-9


def test_one_group_of_everything_always_accepts() -> None:
    drafts, targets = torch.stack([pairs(VOCAB)["disjoint"][0]] * 3), torch.stack([pairs(VOCAB)["disjoint"][1]] * 4)
    _, accepted, _ = simulate(PCG(table(VOCAB, "everything")), drafts, targets, 2_000)
    assert (accepted == 3).all()


@pytest.mark.parametrize("pair", pairs(VOCAB))
def test_alone_tokens_are_kept_just_when_exact_keeps_them(pair: str) -> None:
    draft, target = pairs(VOCAB)[pair]
    drafts, targets = torch.stack([draft] * 2), torch.stack([target] * 3)
    ours, exact = (simulate(rule, drafts, targets, 3_000) for rule in (PCG(table(VOCAB, "identity")), Exact()))
    assert torch.equal(ours[1], exact[1])


def test_recovering_needs_no_dense_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """The accept path and thinning never ask for all groups."""
    groups = table(VOCAB, "windows")

    def refuse(self, probs):  # type: ignore[no-untyped-def]
        raise AssertionError("a dense vector of groups was built")

    monkeypatch.setattr(GroupTable, "coarse", refuse)
    draft, target = pairs(VOCAB)["disjoint"]
    keys = torch.arange(200)
    tokens = draw(draft.expand(200, 1, VOCAB), Randomness(0, keys).uniform(keys.unsqueeze(1), Purpose.TOKEN))
    monkeypatch.setattr(thinning, "TRIALS", (256,))
    verdict = PCG(groups).verify(
        tokens, draft.expand(200, 1, VOCAB), target.expand(200, 2, VOCAB), keys, Randomness(0, keys)
    )
    assert 0 < verdict.accepted.sum() < 200


def test_a_table_that_is_not_kept_padded_gives_the_same_verdicts(monkeypatch: pytest.MonkeyPatch) -> None:
    drafts, targets = torch.stack([pairs(VOCAB)["smooth"][0]] * 3), torch.stack([pairs(VOCAB)["smooth"][1]] * 4)
    padded = table(VOCAB, "ragged")
    expected = simulate(PCG(padded), drafts, targets, 2_000)
    monkeypatch.setattr(table_module, "SMALL", 0)
    ragged = GroupTable.from_csr(padded.sizes.long(), padded.members, VOCAB)
    assert ragged._padded is None
    assert all(torch.equal(a, b) for a, b in zip(simulate(PCG(ragged), drafts, targets, 2_000), expected, strict=True))


@pytest.mark.parametrize("residual", ["target", "draft"])
def test_with_a_floor_groups_keep_the_targets_law_and_the_rest_is_exact(residual: str) -> None:
    """Groups of plausible members, disjoint so that the emitted token shows its group; each other token alone."""
    groups, floor = table(VOCAB, "clusters"), 0.3
    for draft, target in pairs(VOCAB).values():
        grouped = target >= floor * target.max()
        rule = PCG(groups, residual, floor)
        law = rule.law(draft, target)
        torch.testing.assert_close(law[~grouped], target[~grouped])
        wanted, drafted = groups.coarse(target * grouped), groups.coarse(draft * grouped)
        torch.testing.assert_close(groups.coarse(law * grouped), wanted, atol=1e-6, rtol=1e-4)
        alpha = torch.minimum(drafted, wanted).sum() + torch.minimum(draft, target)[~grouped].sum()
        torch.testing.assert_close(rule.expected_acceptance(draft, target), alpha)
        assert alpha >= Exact().expected_acceptance(draft, target) - 1e-6
        assert alpha <= PCG(groups).expected_acceptance(draft, target) + 1e-6


def test_a_floor_that_nothing_is_below_changes_nothing() -> None:
    drafts, targets = (torch.stack([pairs(VOCAB)["smooth"][side]] * (3 + side)) for side in (0, 1))
    for residual in ("target", "draft"):
        with_floor, without = (
            simulate(PCG(table(VOCAB, "ragged"), residual, floor), drafts, targets, 3_000) for floor in (1e-6, None)
        )
        assert all(torch.equal(a, b) for a, b in zip(with_floor, without, strict=True))
