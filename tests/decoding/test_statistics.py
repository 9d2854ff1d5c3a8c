"""Counts by hand, and the identities that hold of any run."""

from __future__ import annotations

import pytest
import torch

from pcg.decoding.autoregressive import decode
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.decoding.statistics import COUNTS, Statistics, kl, overshoot_unlikely, total_variation
from pcg.history import History
from pcg.sampling import Purpose, Randomness, Sampling
from pcg.types import Generation, Round, Utterance, Verdict
from tests.fakes import AcceptAll, ExactRule, MarkovLM

GAMMA, VOCAB = 3, 5  # token 4 is end-of-speech


def block(accepted: list[int], emitted: list[int], finished: list[bool], target: float) -> Round:
    """Rows 0, 1, ...; each drafted token 1 of probability .5, of probability ``target`` under the target."""
    batch = len(accepted)
    said = [[*[1] * kept, 0, *[0] * (GAMMA - kept)] for kept in accepted]
    draft_probs = torch.tensor([0.25, 0.5, 0.125, 0.125, 0.0]).expand(batch, GAMMA, VOCAB)
    target_probs = torch.tensor([1 - target, target, 0.0, 0.0, 0.0]).expand(batch, GAMMA + 1, VOCAB)
    return Round(
        rows=torch.arange(batch),
        positions=torch.zeros(batch, dtype=torch.int64),
        draft_tokens=torch.ones(batch, GAMMA, dtype=torch.int64),
        draft_probs=draft_probs,
        target_probs=target_probs,
        verdict=Verdict(torch.tensor(accepted), torch.zeros(batch, dtype=torch.int64)),
        block=torch.tensor(said),
        emitted=torch.tensor(emitted),
        finished=torch.tensor(finished),
    )


def nothing(rows: int) -> list[Generation]:
    return [Generation(torch.zeros(0, dtype=torch.int64), False)] * rows


def test_counts_by_hand() -> None:
    #          rejected first | whole block | end accepted second | end recovered third | cut after two
    accepted = [0, 3, 2, 2, 3]
    emitted = [1, 4, 1, 2, 2]
    finished = [False, False, True, True, False]
    randomness = Randomness(0, torch.arange(5))
    statistics = Statistics(GAMMA, ExactRule(), randomness)
    statistics(block(accepted, emitted, finished, target=1.0))
    said = statistics.annotate(nothing(5))
    expected = {
        "rounds": [1, 1, 1, 1, 1],
        "target_passes": [1, 1, 1, 1, 1],
        "draft_passes": [3, 3, 3, 3, 3],
        "drafted": [3, 3, 3, 3, 3],
        "tested": [1, 3, 2, 3, 2],
        "accepted": [0, 3, 2, 2, 2],
        "group_only_accepted": [0, 0, 0, 0, 0],
        "rival_accepted": [0, 0, 0, 0, 0],
        "recovered": [1, 0, 0, 1, 0],
        "bonus": [0, 1, 0, 0, 0],
        "emitted": [1, 4, 2, 3, 2],
    }
    assert tuple(expected) == COUNTS
    assert {name: [each.counts[name] for each in said] for name in COUNTS} == expected
    assert [each.accepted_by_position for each in said] == [(0, 0, 0), (1, 1, 1), (1, 1, 0), (1, 1, 0), (1, 1, 0)]
    assert [each.kinds for each in said] == [
        ("recovered",),
        ("exact", "exact", "exact", "bonus"),
        ("exact",),
        ("exact", "exact"),
        ("exact", "exact"),
    ]
    assert [each.sums["alpha_exact"] for each in said] == [1, 3, 2, 3, 2]
    # drafted: token 1 (draft .5, target 1), recovered or bonus: token 0 (draft .25, target 0)
    assert [each.target_probs for each in said] == [(0.0,), (1.0, 1.0, 1.0, 0.0), (1.0,), (1.0, 1.0), (1.0, 1.0)]
    assert [each.draft_probs for each in said] == [(0.25,), (0.5, 0.5, 0.5, None), (0.5,), (0.5, 0.5), (0.5, 0.5)]


def test_group_only_is_what_exact_matching_would_have_rejected_on_the_same_number() -> None:
    rows = 200
    randomness = Randomness(0, torch.arange(rows))
    statistics = Statistics(GAMMA, AcceptAll(), randomness)
    statistics(block([GAMMA] * rows, [GAMMA + 1] * rows, [False] * rows, target=0.2))
    said = statistics.annotate(nothing(rows))
    uniform = randomness.uniform(torch.arange(GAMMA).expand(rows, -1), Purpose.ACCEPT)
    assert [each.counts["group_only_accepted"] for each in said] == (uniform >= 0.4).sum(1).tolist()
    assert [each.kinds.count("group") for each in said] == (uniform >= 0.4).sum(1).tolist()
    assert sum(each.sums["alpha_exact"] for each in said) == pytest.approx(0.4 * GAMMA * rows, rel=1e-6)
    assert "tv" not in said[0].sums  # the rule states no law


@pytest.mark.parametrize("rule", [ExactRule(), AcceptAll()], ids=["exact", "all"])
@pytest.mark.parametrize("gamma", [1, 3, 5])
def test_identities_hold_of_any_run(gamma: int, rule: ExactRule | AcceptAll) -> None:
    target, draft = MarkovLM.random(9, seed=1), MarkovLM.random(9, seed=2)
    randomness = Randomness(0, torch.arange(40))
    prompts = [Prompt(Utterance(str(i), "x")) for i in range(40)]
    statistics = Statistics(gamma, rule, randomness)
    said = statistics.annotate(
        speculative_decode(
            target, draft, rule, Batch(prompts, Sampling(), 11, randomness), gamma=gamma, observer=statistics
        )
    )
    assert {each.finished for each in said} == {True, False}
    for each in said:
        counts = each.counts
        assert counts["emitted"] == counts["accepted"] + counts["recovered"] + counts["bonus"]
        assert counts["emitted"] == len(each.tokens) + each.finished
        assert len(each.kinds) == len(each.target_probs) == len(each.draft_probs) == len(each.tokens)
        assert [prob is None for prob in each.draft_probs] == [kind == "bonus" for kind in each.kinds]
        assert sum(each.accepted_by_position) == counts["accepted"] <= counts["tested"] <= counts["drafted"]
        assert counts["drafted"] == gamma * counts["rounds"]
        if isinstance(rule, ExactRule):
            assert counts["group_only_accepted"] == 0
            assert each.sums["tv"] == each.sums["kl"] == 0
    if isinstance(rule, ExactRule):  # expected and actual acceptance of exact agree
        accepted, tested = (sum(each.counts[name] for each in said) for name in ("accepted", "tested"))
        expected = sum(each.sums["alpha_exact"] for each in said)
        assert abs(accepted - expected) < 4 * tested**0.5 / 2


def test_overshoot_at_unlikely_tokens_by_hand() -> None:
    target = torch.tensor([0.9, 0.0995, 0.0005, 0.0])  # the bound is .0009
    law = torch.tensor([0.5, 0.3, 0.1505, 0.0495])
    torch.testing.assert_close(overshoot_unlikely(law, target), torch.tensor(0.15 + 0.0495))
    torch.testing.assert_close(total_variation(law, target), torch.tensor(0.4))  # .2005 of it at the likely token 1
    assert overshoot_unlikely(target, target) == 0


@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_probabilities_are_those_of_reading_the_finished_utterance(penalty: float) -> None:
    target, draft = MarkovLM.random(9, seed=1), MarkovLM.random(9, seed=2)
    sampling, randomness = Sampling(0.9, 6, 0.95, penalty), Randomness(0, torch.arange(8))
    prompts = [Prompt(Utterance(str(i), "x")) for i in range(8)]
    statistics = Statistics(3, ExactRule(), randomness)
    found = speculative_decode(
        target, draft, ExactRule(), Batch(prompts, sampling, 30, randomness), gamma=3, observer=statistics
    )
    for prompt, said in zip(prompts, statistics.annotate(found), strict=True):
        for model, noted in ((target, said.target_probs), (draft, said.draft_probs)):
            ids = model.prompt(prompt.utterance, None)
            cache = model.prefill([ids], len(ids) + len(said.tokens))
            logits = model.step(torch.cat([ids[-1:], model.token_ids(said.tokens)])[None, :-1], cache)[0]
            seen = torch.nn.functional.one_hot(said.tokens, 9).cumsum(0).roll(1, 0) > 0
            seen[:1] = False
            probs = sampling.probabilities(logits, History(seen, None, None))
            probs = probs.gather(1, said.tokens[:, None]).squeeze(1).tolist()
            expected = [prob for prob, note in zip(probs, noted, strict=True) if note is not None]
            assert [note for note in noted if note is not None] == pytest.approx(expected, rel=1e-3)


def test_plain_decoding_counts_a_pass_a_token() -> None:
    target = MarkovLM.random(6, seed=1)
    prompts = [Prompt(Utterance(str(i), "x")) for i in range(10)]
    said = decode(target, Batch(prompts, Sampling(), 9, Randomness(0, torch.arange(10))))
    assert {each.finished for each in said} == {True, False}
    for each in said:
        assert each.counts["emitted"] == each.counts["target_passes"] == len(each.tokens) + each.finished
        assert each.counts["rounds"] == 0
        assert set(each.kinds) <= {"plain"}


def test_distances() -> None:
    law, target = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]]), torch.tensor([[0.25, 0.75, 0.0], [1.0, 0.0, 0.0]])
    assert total_variation(law, target).tolist() == [0.25, 1.0]
    expected = torch.tensor(
        [0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(2 / 3).log(), 9 * torch.tensor(10.0).log()]
    )
    torch.testing.assert_close(kl(law, target), expected)
