"""DropMatch: by hand, against its law given the masks, and in the loop, on a target that shows its states."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from pcg.acceptance.dropmatch import DropMatch, jensen_shannon
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.sampling import RAS, Purpose, Randomness, Sampling, draw
from pcg.types import Utterance
from tests.acceptance.harness import chi_square, survival
from tests.fakes import MarkovLM, make_bundled_folder

VOCAB, WIDTH, GAMMA = 12, 32, 2
SAMPLING = Sampling(temperature=0.8)


class Head:
    def __init__(self) -> None:
        self.weight = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.5

    def head(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden @ self.weight.T


def test_which_tokens_are_kept_by_hand() -> None:
    """Two opinions for token 0, one for token 1."""
    opinions = torch.tensor([[3.0, 1.0, 0.0], [2.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    far = torch.tensor([0.0, 0.0, 1.0])
    assert DropMatch("naive").kept(far, opinions, Sampling()).tolist() == [True, True, False]
    assert DropMatch("js").kept(far, opinions, Sampling()).tolist() == [True, False, False]
    near = opinions.mean(0).softmax(-1)  # the draft is the mean opinion: anything goes
    assert DropMatch("js").kept(near, opinions, Sampling()).tolist() == [True, True, True]
    torch.testing.assert_close(jensen_shannon(far, far.roll(1)), torch.tensor(2.0).log())


def test_without_dropout_every_opinion_is_the_targets_own() -> None:
    hidden, at = torch.randn(3, GAMMA, WIDTH), torch.arange(3)[:, None] + torch.arange(GAMMA)
    opinions = DropMatch(masks=2, rate=0.0).opinions(hidden, Head().head, at, Randomness(0, torch.arange(3)))
    torch.testing.assert_close(opinions, Head().head(hidden).expand(2, -1, -1, -1))


@pytest.mark.usefixtures("types_unchecked")
@pytest.mark.parametrize("near", [True, False], ids=["near", "far"])
@pytest.mark.parametrize("by", ["naive", "js"])
def test_sampling_follows_the_law_given_the_masks(by: str, near: bool) -> None:
    """Each row has masks of its own, so its own law: the emitted tokens have the mean of these."""
    rows, generator = 60_000, torch.Generator().manual_seed(1)
    states = torch.randn(GAMMA + 1, WIDTH, generator=generator)
    logits = Head().head(states)
    targets = SAMPLING.probabilities(logits).expand(rows, -1, -1)
    noise = torch.randn(GAMMA, VOCAB, generator=generator) * (0.5 if near else 3.0)
    drafts = SAMPLING.probabilities(logits[:GAMMA] + noise).expand(rows, -1, -1)
    randomness, positions = Randomness(0, torch.arange(rows)), torch.arange(rows) % 40
    tokens = draw(drafts, randomness.draws(positions, Purpose.TOKEN, GAMMA))
    cache = SimpleNamespace(  # a prefix of one, and the block
        lengths=torch.full((rows,), GAMMA + 2),
        hidden=torch.cat([torch.zeros(1, WIDTH), states]).expand(rows, 1, -1, -1),
    )
    rule = DropMatch(by, masks=3)
    verdict = rule.over(Head(), cache, SAMPLING).verify(tokens, drafts, targets, positions, randomness)
    opinions = rule.opinions(states[:1].expand(rows, 1, -1), Head().head, positions.unsqueeze(1), randomness)
    kept = rule.kept(drafts[:, :1], opinions, SAMPLING).squeeze(1)
    law = rule.law_given(drafts[:, 0], targets[:, 0], kept)
    torch.testing.assert_close(law.sum(-1), torch.ones(rows), atol=1e-5, rtol=0)
    said = torch.where(verdict.accepted > 0, tokens[:, 0], verdict.token)
    assert survival(*chi_square(said, law.mean(0))) > 1e-5
    rates = rule.acceptance_given(drafts[:, 0], kept).double().clamp(0, 1)
    slack = 5 * (rates * (1 - rates)).sum().sqrt().item() + 1
    assert abs((verdict.accepted > 0).sum().item() - rates.sum().item()) < slack
    assert 0 < rates.mean() < 1
    again = torch.arange(7, 19)  # rows of another batch, another order
    part = rule.over(
        Head(), SimpleNamespace(lengths=cache.lengths[again], hidden=cache.hidden[again]), SAMPLING
    ).verify(tokens[again], drafts[again], targets[again], positions[again], Randomness(0, again))
    assert torch.equal(part.token, verdict.token[again])


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> LlamaLM:
    folder = make_bundled_folder(tmp_path_factory.mktemp("dropmatch") / "target", audio_tokens=12)
    return LlamaLM(str(folder), Phonemes(str(folder)), "float32", "cpu", "speech")


def say(target: LlamaLM, rule: DropMatch, ids: list[int], sampling: Sampling = SAMPLING) -> list[list[int]]:
    prompts = [Prompt(Utterance(str(i), "Yes."), torch.tensor([1, 2])) for i in ids]
    found = speculative_decode(
        target, target, rule, Batch(prompts, sampling, 14, Randomness(0, torch.tensor(ids))), gamma=3
    )
    return [each.tokens.tolist() for each in found]


def test_the_loop_hands_it_the_states_of_the_tested_positions(target: LlamaLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without dropout an opinion is the target's own distribution at the position, whatever was rolled back before."""
    seen = 0
    honest = DropMatch.kept

    def watched(self, draft_probs, opinions, sampling):  # type: ignore[no-untyped-def]
        nonlocal seen
        seen += 1
        # the draft is the target: its distributions are those that the head gives again
        torch.testing.assert_close(sampling.probabilities(opinions[0]), draft_probs, atol=1e-4, rtol=1e-3)
        return honest(self, draft_probs, opinions, sampling) & (torch.arange(draft_probs.shape[-1]) % 2 == 0)

    monkeypatch.setattr(DropMatch, "kept", watched)
    say(target, DropMatch(masks=1, rate=0.0), [0, 1, 2])
    assert seen > 4


def test_the_same_tokens_in_any_batch(target: LlamaLM) -> None:
    rule = DropMatch("naive")
    assert say(target, rule, [0, 1, 2]) == [say(target, rule, [i])[0] for i in range(3)]


def test_what_does_not_fit_is_one_clear_error(target: LlamaLM) -> None:
    with pytest.raises(ValueError, match=r"by='both'.*masks=0.*rate=1"):
        DropMatch("both", 0, 1.0)
    with pytest.raises(ValueError, match=r"does not support decoding\.repetition_penalty; set it to 1\.0"):
        say(target, DropMatch(), [0], Sampling(repetition_penalty=1.2))
    with pytest.raises(ValueError, match=r"does not support decoding\.ras; set it to null"):
        say(target, DropMatch(), [0], Sampling(ras=RAS()))
    model = MarkovLM.random(5, seed=1)
    prompt = [Prompt(Utterance("a", "x"), torch.tensor([0, 1]))]
    with pytest.raises(ValueError, match="DropMatch needs hidden states, which a MarkovLM does not give"):
        speculative_decode(
            model, model, DropMatch(), Batch(prompt, SAMPLING, 3, Randomness(0, torch.arange(1))), gamma=2
        )
