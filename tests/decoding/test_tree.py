"""Decoding with several candidates: the target's law and, greedy, its tokens; whatever else is in the batch."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch

from pcg.acceptance.candidates import Candidates
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.decoding.autoregressive import decode
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.statistics import Statistics
from pcg.decoding.tree import stars, tree_decode
from pcg.models.eagle import EagleLM
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.sampling import RAS, Randomness, Sampling, as_keys
from pcg.training.students import EagleDraft
from pcg.training.teacher import Teacher
from pcg.types import Generation, Round, Utterance
from tests.acceptance.harness import table
from tests.decoding.test_exactness import VOICE, keys, prompts, sequence_law
from tests.fakes import MarkovLM, make_bundled_folder

TEXTS = ["A fox.", "Did you see the fox over there?", "No.", "He was gone.", "I came.", "Why?", "It is.", "So it goes."]
PROMPTS = [Prompt(Utterance(f"u{i}", text), torch.arange(i) % 3 if i % 2 else None) for i, text in enumerate(TEXTS)]
Pair = tuple[LlamaLM, LlamaLM | EagleLM]


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Pair]:
    """A random target of few tokens, with a draft of its own weights and with one made of the target's last layer."""
    root = tmp_path_factory.mktemp("tree")
    sizes = {"width": 32, "kv_heads": 4, "audio_tokens": 12, "tied": False, "initializer_range": 0.5}
    folder = make_bundled_folder(root / "target", layers=3, **sizes)
    small = make_bundled_folder(root / "draft", layers=1, seed=1, **sizes)
    target, draft = (LlamaLM(str(each), Phonemes(str(each)), "float32", "cpu", "speech") for each in (folder, small))
    teacher = Teacher(str(folder), Phonemes(str(folder)).speech_ids)
    maker = EagleDraft([1, 2, 3])
    torch.manual_seed(0)
    maker.save(maker.make(teacher), root / "eagle", teacher)
    return {"own": (target, draft), "eagle": (target, EagleLM(str(root / "eagle"), target, "float32", "cpu"))}


def run(pair: Pair, order: list[int], **options: object) -> dict[int, Generation]:
    settings: dict = {
        "gamma": 3, "rule": Candidates(Exact(), 3), "sampling": Sampling(repetition_penalty=1.2), "max_tokens": 40,
        **options,
    }  # fmt: skip
    target, draft = pair
    rule, gamma, observer = settings.pop("rule"), settings.pop("gamma"), settings.pop("observer", None)
    chosen = [PROMPTS[i] for i in order]
    randomness = Randomness(4, as_keys([prompt.utterance.id for prompt in chosen], torch.device("cpu")))
    said = tree_decode(target, draft, rule, Batch(chosen, randomness=randomness, **settings), gamma, observer)
    return dict(zip(order, said, strict=True))


def test_the_tree_by_hand() -> None:
    """Two drafted positions with three candidates each: a rival sees the chain before its position, and itself."""
    tree = stars(2, 3, torch.device("cpu"))
    assert tree.depths.tolist() == [0, 1, 2, 1, 1, 2, 2]
    assert ["".join(map(str, row)) for row in tree.sees.long().tolist()] == [
        "1000000", "1100000", "1110000", "1001000", "1000100", "1100010", "1100001",
    ]  # fmt: skip


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize(
    "sampling",
    [Sampling(), Sampling(repetition_penalty=1.8), Sampling(repetition_penalty=1.8, penalty_window=2, ras=RAS(2, 0.5))],
    ids=["plain", "penalised", "windows"],
)
def test_sequences_have_the_targets_law(sampling: Sampling) -> None:
    """Over rounds: no number is used twice, and what follows a rival is the target's."""
    target, draft, rows = MarkovLM.random(4, seed=1), MarkovLM.random(4, seed=2, shift=5), 16_000
    for model in (target, draft):
        model.table[..., -1] = -2.0  # seldom ends: several rounds
    law = sequence_law(target, sampling, 4, VOICE)
    said = tree_decode(target, draft, Candidates(Exact(), 3), Batch(prompts(rows), sampling, 4, keys(rows)), gamma=2)
    found = Counter((*each.tokens.tolist(), target.end)[: 4 if not each.finished else None] for each in said)
    assert set(found) <= {sequence for sequence, probability in law.items() if probability > 0}
    expected = torch.tensor([rows * probability for probability in law.values()])
    counts = torch.tensor([float(found[sequence]) for sequence in law])
    often = expected > 5
    freedom = int(often.sum()) - 1
    assert ((counts - expected) ** 2 / expected)[often].sum() < freedom + 4 * (2 * freedom) ** 0.5


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("gamma", [1, 3])
@pytest.mark.parametrize("pair", ["own", "eagle"])
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_is_the_targets_own_token_for_token(
    pairs: dict[str, Pair], pair: str, gamma: int, penalty: float
) -> None:
    sampling = Sampling(temperature=0.0, repetition_penalty=penalty)
    plain = decode(pairs[pair][0], Batch(PROMPTS, sampling, 40, Randomness(0, torch.arange(8))))
    for rule in (Exact(), PCG(table(13, "windows"), floor=0.1)):
        options = {"rule": Candidates(rule, 2), "gamma": gamma, "sampling": sampling}
        said = run(pairs[pair], list(range(8)), **options) | run(pairs[pair], [3], **options)
        assert [said[i].tokens.tolist() for i in range(8)] == [each.tokens.tolist() for each in plain]


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("pair", ["own", "eagle"])
@pytest.mark.parametrize("rule", [Exact(), PCG(table(13, "windows"))], ids=["exact", "pcg"])
def test_a_row_comes_out_the_same_in_any_batch_and_order(pairs: dict[str, Pair], pair: str, rule: Exact | PCG) -> None:
    options = {"rule": Candidates(rule, 3)}
    whole = run(pairs[pair], list(range(8)), **options)
    assert len({len(each.tokens) for each in whole.values()}) > 1  # rows left at different times
    shuffled = list(range(8))
    random.Random(0).shuffle(shuffled)
    for order in (shuffled, [5, 1, 2], [0], [3], [7]):
        for i, each in run(pairs[pair], order, **options).items():
            assert each.tokens.tolist() == whole[i].tokens.tolist()
            assert each.finished == whole[i].finished


@pytest.mark.parametrize("pair", ["own", "eagle"])
def test_each_rounds_probabilities_are_those_of_a_fresh_prefill(pairs: dict[str, Pair], pair: str) -> None:
    """Of both models along what was said, so that the entries of rivals that were kept lie where they should."""
    target, draft = pairs[pair]
    sampling = Sampling()
    said: dict[int, list[int]] = {i: [] for i in range(4)}
    rivals = 0

    def check(seen: Round) -> None:
        nonlocal rivals
        for place, row in enumerate(seen.rows.tolist()):
            prompt = target.prompt(PROMPTS[row].utterance, PROMPTS[row].speech)
            ids = torch.cat([prompt, target.token_ids(torch.tensor(said[row], dtype=torch.int64))])
            count = int(seen.verdict.accepted[place]) + 1
            fed = torch.cat([ids[-1:], target.token_ids(seen.block[place])])[:count]
            cache = target.prefill([ids], 200, draft.reads)
            expected = sampling.probabilities(target.step(fed[None], cache))[0]
            torch.testing.assert_close(seen.target_probs[place, :count], expected, rtol=1e-3, atol=1e-5)
            cache.lengths = cache.lengths - count
            first = draft.step(ids[None, -1:], draft.prefill([ids], 200, target=cache))[0, -1]
            torch.testing.assert_close(seen.draft_probs[place, 0], sampling.probabilities(first), rtol=1e-3, atol=1e-5)
            rivals += int(seen.verdict.rival[place] > 0)
            said[row].extend(seen.block[place, : int(seen.emitted[place])].tolist())

    whole = run((target, draft), [0, 1, 2, 3], sampling=sampling, observer=check)
    assert {i: each.tokens.tolist() for i, each in whole.items()} == said
    assert rivals > 2


@pytest.mark.parametrize("count", [2, 4])
def test_counts_and_shapes(count: int) -> None:
    target, draft, gamma, rows = MarkovLM.random(9, seed=1), MarkovLM.random(9, seed=2), 3, 40
    rule, randomness = Candidates(Exact(), count), Randomness(0, torch.arange(rows))
    statistics = Statistics(gamma, rule, randomness)
    said = statistics.annotate(
        tree_decode(
            target,
            draft,
            rule,
            Batch([Prompt(Utterance(str(i), "x")) for i in range(rows)], Sampling(), 11, randomness),
            gamma=gamma,
            observer=statistics,
        )
    )
    assert {shape[1] for shape in target.passes} == {1 + gamma * count}
    assert {shape[1] for shape in draft.passes} == {1, 2}
    assert {each.finished for each in said} == {True, False}
    for each in said:
        counts = each.counts
        assert counts["drafted"] == gamma * count * counts["rounds"]
        assert counts["emitted"] == len(each.tokens) + each.finished
        assert counts["emitted"] == counts["accepted"] + counts["recovered"] + counts["bonus"]
        assert 0 <= counts["rival_accepted"] - each.kinds.count("candidate") <= each.finished  # the end may be one
        assert sum(each.accepted_by_position) == counts["accepted"]
        assert len(each.kinds) == len(each.target_probs) == len(each.draft_probs) == len(each.tokens)
        assert [prob is None for prob in each.draft_probs] == [kind == "bonus" for kind in each.kinds]
        assert all(prob > 0 for prob in each.target_probs)
        assert each.sums["tv"] == pytest.approx(0, abs=1e-5)
        assert counts["group_only_accepted"] == 0
        after_rivals = [each.kinds[i + 1] for i, kind in enumerate(each.kinds[:-1]) if kind == "candidate"]
        assert set(after_rivals) <= {"bonus"}  # a rival ends its round
    totals = {name: sum(each.counts[name] for each in said) for name in said[0].counts}
    assert 0 < totals["rival_accepted"] < totals["accepted"] < totals["tested"]
    assert totals["recovered"] == totals["tested"] - totals["accepted"]
