"""What one row says depends on nothing but itself, and every round has the shapes that it promises."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch

from pcg.acceptance.exact import Exact
from pcg.decoding.autoregressive import decode
from pcg.decoding.clock import PARTS, Clock
from pcg.decoding.pair import check_compatible
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.interfaces import TokenLM
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.sampling import Randomness, Sampling, as_keys
from pcg.types import Generation, Round, Utterance
from tests.fakes import AcceptAll, ExactRule, MarkovLM, make_bundled_folder

TEXTS = ["A fox.", "Did you see the fox over there?", "No.", "He was gone.", "I came.", "Why?", "It is.", "So it goes."]
PROMPTS = [Prompt(Utterance(f"u{i}", text), torch.arange(i) % 3 if i % 2 else None) for i, text in enumerate(TEXTS)]


def run(target: TokenLM, draft: TokenLM, order: list[int], **options: object) -> dict[int, Generation]:
    settings: dict = {"gamma": 3, "sampling": Sampling(repetition_penalty=1.2), "max_tokens": 60, **options}
    rule, gamma = settings.pop("rule", ExactRule()), settings.pop("gamma")
    watched = {key: settings.pop(key) for key in ("observer", "clock") if key in settings}
    chosen = [PROMPTS[i] for i in order]
    randomness = Randomness(4, as_keys([prompt.utterance.id for prompt in chosen], torch.device("cpu")))
    said = speculative_decode(target, draft, rule, Batch(chosen, randomness=randomness, **settings), gamma, **watched)
    return dict(zip(order, said, strict=True))


@pytest.fixture(scope="module")
def llamas(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaLM, LlamaLM]:
    folders = [
        make_bundled_folder(tmp_path_factory.mktemp(name), layers=layers, seed=layers)
        for name, layers in (("t", 3), ("d", 1))
    ]
    target, draft = [LlamaLM(str(f), Phonemes(str(f)), "float32", "cpu", "speech") for f in folders]
    return target, draft


@pytest.fixture(scope="module")
def markovs() -> tuple[MarkovLM, MarkovLM]:
    return MarkovLM.random(20, seed=6), MarkovLM.random(20, seed=7, spread=1.0)


@pytest.mark.parametrize("pair", ["llamas", "markovs"])
def test_a_row_comes_out_the_same_in_any_batch_and_order(pair: str, request: pytest.FixtureRequest) -> None:
    target, draft = request.getfixturevalue(pair)
    whole = run(target, draft, list(range(8)))
    assert len({len(each.tokens) for each in whole.values()}) > 1  # rows left at different times
    shuffled = list(range(8))
    random.Random(0).shuffle(shuffled)
    for order in (shuffled, [5, 1, 2], *([i] for i in range(8))):
        for i, each in run(target, draft, order).items():
            assert each.tokens.tolist() == whole[i].tokens.tolist()
            assert each.finished == whole[i].finished


@pytest.mark.parametrize("gamma", [1, 2, 3, 4, 5, 6])
def test_greedy_on_llamas_equals_plain_decoding_in_batches_of_1_and_8(
    gamma: int, llamas: tuple[LlamaLM, LlamaLM]
) -> None:
    target, draft = llamas
    sampling = Sampling(temperature=0.0)
    keys = Randomness(0, torch.arange(8))
    plain = decode(target, Batch(PROMPTS, sampling, 30, keys))
    whole = run(target, draft, list(range(8)), gamma=gamma, sampling=sampling, max_tokens=30)
    for i, expected in enumerate(plain):
        assert whole[i].tokens.tolist() == expected.tokens.tolist()
    alone = run(target, draft, [3], gamma=gamma, sampling=sampling, max_tokens=30)[3]
    assert alone.tokens.tolist() == plain[3].tokens.tolist()


@pytest.mark.parametrize("gamma", [1, 4])
def test_every_pass_has_one_of_three_shapes(gamma: int) -> None:
    target, draft = MarkovLM.random(20, seed=6), MarkovLM.random(20, seed=7)
    run(target, draft, [0], gamma=gamma)
    rounds = len(target.passes)
    assert target.passes == [(1, gamma + 1)] * rounds
    assert draft.passes == ([(1, 2)] + [(1, 1)] * (gamma - 1)) * rounds


def test_rolled_back_caches_give_what_recomputing_gives(llamas: tuple[LlamaLM, LlamaLM]) -> None:
    """Every round's probabilities, of both models and all rows, against a fresh prefill of what had been said."""
    target, draft = llamas
    sampling = Sampling()
    said: dict[int, list[int]] = {i: [] for i in range(4)}

    def check(seen: Round) -> None:
        for place, row in enumerate(seen.rows.tolist()):
            block = seen.draft_tokens[place]
            for model, found in ((target, seen.target_probs[place]), (draft, seen.draft_probs[place])):
                prompt = model.prompt(PROMPTS[row].utterance, PROMPTS[row].speech)
                ids = torch.cat([prompt, model.token_ids(torch.tensor(said[row], dtype=torch.int64))])
                fresh = model.prefill([ids], capacity=200)
                fed = torch.cat([ids[-1:], model.token_ids(block)])[: len(found)]
                expected = sampling.probabilities(model.step(fed[None], fresh))[0]
                torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
            kept = int(seen.verdict.accepted[place])
            new = [*block[:kept].tolist(), int(seen.verdict.token[place])]
            said[row].extend(new[: int(seen.emitted[place])])

    whole = run(target, draft, [0, 1, 2, 3], sampling=sampling, observer=check)
    assert {i: each.tokens.tolist() for i, each in whole.items()} == said


def chain(vocab: int) -> MarkovLM:
    """Says 0, 1, 2, ..., end-of-speech with certainty."""
    table = torch.full((vocab, vocab, vocab), -50.0)
    for last in range(vocab):
        table[:, last, (last + 1) % vocab] = 50.0
    return MarkovLM(table)


@pytest.mark.parametrize("gamma", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("rule", [ExactRule(), AcceptAll()], ids=["exact", "all"])
def test_end_of_speech_inside_a_block_cuts_the_row(gamma: int, rule: object) -> None:
    model = chain(9)  # prompt ids count as token 0; so 1..7, then the end
    said = run(model, model, [0, 2], gamma=gamma, rule=rule, sampling=Sampling(), max_tokens=30)
    for each in said.values():
        assert each.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7]
        assert each.finished


@pytest.mark.parametrize("gamma", [1, 2, 3, 4, 5, 6])
@pytest.mark.parametrize("limit", [1, 6, 7, 8])
def test_maximum_length_cuts_the_row(gamma: int, limit: int) -> None:
    model = chain(9)
    speculative = run(model, model, [0], gamma=gamma, sampling=Sampling(), max_tokens=limit)[0]
    plain = decode(model, Batch(PROMPTS[:1], Sampling(), limit, Randomness(0, torch.zeros(1).long())))
    for each in (speculative, plain[0]):
        assert each.tokens.tolist() == [1, 2, 3, 4, 5, 6, 7][:limit]
        assert each.finished == (limit == 8)  # the end is the eighth token


def test_repetition_penalty_counts_the_voice_prompt(markovs: tuple[MarkovLM, MarkovLM]) -> None:
    """A penalty that forbids makes every token of prompt and generation differ."""
    target, draft = markovs
    positive = MarkovLM(target.table - target.table.min() + 1), MarkovLM(draft.table - draft.table.min() + 1)
    sampling = Sampling(repetition_penalty=1e-4**-1, temperature=0.01)
    voiced = 5
    said = run(*positive, [voiced], sampling=sampling, max_tokens=16)[voiced]
    tokens = [*(PROMPTS[voiced].speech.unique().tolist()), *said.tokens.tolist()]
    assert len(set(tokens)) == len(tokens) > 3


def test_clock_accounts_for_all_of_decoding(markovs: tuple[MarkovLM, MarkovLM]) -> None:
    clock = Clock(torch.device("cpu"))
    rounds: list[Round] = []
    run(*markovs, [0, 1], clock=clock, observer=rounds.append)
    assert set(clock.seconds) == set(PARTS)
    assert all(seconds > 0 for seconds in clock.seconds.values())
    assert clock.passes["target"] == clock.passes["rule"] == len(rounds)
    assert clock.passes["draft"] == 3 * len(rounds)


def test_an_observers_time_is_not_decoding_time(markovs: tuple[MarkovLM, MarkovLM]) -> None:
    now = 0.0

    def tick() -> float:
        nonlocal now
        now += 1
        return now

    def slow(seen: Round) -> None:
        nonlocal now
        now += 1e6

    clock = Clock(torch.device("cpu"), tick)
    run(*markovs, [0], clock=clock, observer=slow)
    assert sum(clock.seconds.values()) < 1e5


def test_wrong_settings_are_named(markovs: tuple[MarkovLM, MarkovLM]) -> None:
    with pytest.raises(ValueError, match="gamma=0"):
        run(*markovs, [0], gamma=0)
    with pytest.raises(ValueError, match="max_tokens=0"):
        run(*markovs, [0], max_tokens=0)


def test_a_pair_that_does_not_fit_is_named(tmp_path: Path) -> None:
    target = MarkovLM.random(20, seed=0)
    check_compatible(MarkovLM.random(20, seed=1), target)
    with pytest.raises(ValueError, match="the draft has 18 audio tokens, the target 19"):
        check_compatible(MarkovLM.random(19, seed=1), target)
    draft = MarkovLM.random(20, seed=1)
    draft.end = 3
    with pytest.raises(ValueError, match="speech token 3 in the draft, 19 in the target"):
        check_compatible(draft, target)
    draft = MarkovLM.random(20, seed=1)
    draft.device = torch.device("meta")
    with pytest.raises(ValueError, match="the draft is on meta, the target on cpu"):
        check_compatible(draft, target)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_logits_that_are_not_finite_are_an_error_with_the_target_alone_too(
    markovs: tuple[MarkovLM, MarkovLM], temperature: float, bad: float
) -> None:
    target, draft = markovs
    broken = MarkovLM(torch.where(torch.arange(20) == 5, bad, target.table))
    sampling = Sampling(temperature=temperature)
    with pytest.raises(ValueError, match=r"^target_probs holds NaN or infinity in 8 of 8 rows: the model overflows"):
        decode(broken, Batch(PROMPTS, sampling, 9, Randomness(0, torch.arange(8))))
    for pair, which in ((broken, draft), "target"), ((target, broken), "draft"):
        with pytest.raises(ValueError, match=f"^{which}_probs holds NaN or infinity"):
            run(*pair, list(range(8)), rule=Exact(), sampling=sampling)
