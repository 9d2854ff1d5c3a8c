"""vLLM's first runner without vLLM: its flat tensors, by the shapes that were recorded from it, in and tokens out."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

import pytest
import torch

from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.engines.vllm.penalties import warn_of_penalties
from pcg.engines.vllm.v1 import RejectionSample, expand_batch_to_tokens
from pcg.groups.table import GroupTable
from pcg.sampling import draw
from tests.engines.test_decide import DRAFT, GAMMA, GROUPS, TARGET, VOCAB, total_variation


@dataclass
class Metadata:
    """What the function reads of vLLM's ``SamplingMetadata``."""

    temperature: torch.Tensor | None
    all_greedy: bool = False
    all_random: bool = True
    no_penalties: bool = True
    generators: dict[int, torch.Generator] = field(default_factory=dict)


def refuse(*arguments: object, **named: object) -> torch.Tensor:
    raise AssertionError("vLLM's own was asked")


def call(
    sample: RejectionSample, counts: list[int], metadata: Metadata, drafts: torch.Tensor, probs: torch.Tensor | None,
    logits: torch.Tensor, bonus: torch.Tensor, max_spec_len: int = GAMMA,
) -> torch.Tensor:  # fmt: skip
    """As vLLM 0.32 calls it: int32 ids, bonus tokens [batch, 1], three arguments by name."""
    return sample(
        drafts.to(torch.int32), counts, max_spec_len, torch.tensor(counts).cumsum(0).to(torch.int32), probs, logits,
        bonus.to(torch.int32)[:, None], metadata, synthetic_mode=False, synthetic_conditional_rates=None,
        use_fp64_gumbel=False,
    )  # fmt: skip


def step(rule: object, counts: list[int], metadata: Metadata | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of these many drafts, each token of the draft's law; the output, and the bonus tokens."""
    rows = torch.tensor([i for count in counts for i in range(count)], dtype=torch.int64)
    metadata = metadata or Metadata(torch.ones(len(counts)))
    uniform = torch.rand(len(rows), dtype=torch.float64)
    bonus = draw(TARGET[counts], torch.rand(len(counts), dtype=torch.float64))
    drafts = draw(DRAFT[rows], uniform)
    return call(RejectionSample(rule, refuse), counts, metadata, drafts, DRAFT[rows], TARGET[rows].log(), bonus), bonus


@pytest.mark.parametrize("rule", [Exact(), PCG(GROUPS)], ids=["exact", "pcg"])
def test_ragged_rows_have_the_rules_law(rule: object) -> None:
    """40,000 rows of one to three drafts, and some of none."""
    torch.manual_seed(1)
    counts = [3, 2, 3, 1, 0] * 10_000
    tokens, bonus = step(rule, counts)
    length = torch.tensor(counts)
    assert tokens.dtype == torch.int32
    assert tokens.shape == (len(counts), GAMMA + 1)
    first = tokens[length > 0, 0].long()
    assert len(first) == 40_000
    assert total_variation(first, rule.law(DRAFT[0], TARGET[0])) < 0.01
    whole = (tokens >= 0).sum(1) > length
    assert torch.equal(tokens[whole].gather(1, length[whole][:, None])[:, 0].long(), bonus[whole])
    assert whole[length == 0].all()
    behind = torch.arange(GAMMA + 1) > length[:, None]
    assert (tokens[behind] == -1).all()


def test_greedy_rows_among_others() -> None:
    counts = [3, 3, 1, 2]
    greedy = Metadata(torch.tensor([0.0, 0.8, 0.0, 0.8]), all_random=False)
    rows = torch.tensor([i for count in counts for i in range(count)])
    best = TARGET.argmax(1)
    drafts = torch.cat([best[:3], best[:3], (best[:1] + 1) % VOCAB, best[:2]])
    bonus = torch.tensor([5, 6, 7, 8])
    everything = PCG(GroupTable.from_members([list(range(VOCAB))], VOCAB))
    tokens = call(RejectionSample(everything, refuse), counts, greedy, drafts, DRAFT[rows], TARGET[rows].log(), bonus)
    assert tokens[0].tolist() == [*best[:3].tolist(), 5]
    assert tokens[1].tolist() == [*best[:3].tolist(), 6]
    assert tokens[2].tolist() == [best[0].item(), -1, -1, -1]  # not the draft, though the rule keeps all
    assert tokens[3].tolist() == [*best[:2].tolist(), 8, -1]


def test_placeholders_end_a_row() -> None:
    rows = torch.tensor([0, 1, 2])
    drafts = torch.tensor([TARGET[0].argmax(), -1, 3])
    everything = RejectionSample(PCG(GroupTable.from_members([list(range(VOCAB))], VOCAB)), refuse)
    tokens = call(everything, [3], Metadata(torch.ones(1)), drafts, DRAFT[rows], TARGET[rows].log(), torch.tensor([9]))
    assert tokens[0, 0] == drafts[0]
    assert 0 <= tokens[0, 1] < VOCAB
    assert tokens[0, 2:].tolist() == [-1, -1]


@pytest.mark.parametrize("case", ["no probabilities", "all greedy"])
def test_what_stays_vllms(case: str) -> None:
    """The first round of a request, whose drafts have no probabilities, and a batch of greedy requests."""
    asked = []

    def own(*arguments: object, **named: object) -> torch.Tensor:
        asked.append((len(arguments), set(named)))
        return torch.zeros(1, 2)

    greedy = case == "all greedy"
    metadata = Metadata(None if greedy else torch.ones(1), all_greedy=greedy, all_random=not greedy)
    probs = DRAFT[:1] if greedy else None
    sample = RejectionSample(PCG(GROUPS), own)
    call(sample, [1], metadata, torch.tensor([4]), probs, TARGET[:1].log(), torch.tensor([5]), 1)
    assert asked == [(8, {"synthetic_mode", "synthetic_conditional_rates", "use_fp64_gumbel"})]


def test_a_requests_seed_gives_the_same_decision_in_any_batch() -> None:
    """vLLM's generator of the request is what moves; the draft's tokens are the same here."""

    def decisions(seed: int, beside: int) -> list[list[int]]:
        generator, found = torch.Generator().manual_seed(seed), []
        counts = [3] * (beside + 1)
        rows = torch.arange(3).repeat(beside + 1)
        drafts, bonus = torch.tensor([4, 5, 6]).repeat(beside + 1), torch.full((beside + 1,), 7)
        for _ in range(20):
            metadata = Metadata(torch.ones(len(counts)), generators={beside: generator})
            sample = RejectionSample(PCG(GROUPS), refuse)
            found.append(call(sample, counts, metadata, drafts, DRAFT[rows], TARGET[rows].log(), bonus)[-1].tolist())
        return found

    assert decisions(3, 0) == decisions(3, 2)
    assert decisions(3, 0) != decisions(4, 0)


def test_penalties_are_warned_of_once(caplog: pytest.LogCaptureFixture) -> None:
    sample = RejectionSample(Exact(), refuse)
    metadata = Metadata(torch.ones(1), no_penalties=False)
    warn_of_penalties.cache_clear()
    with caplog.at_level(logging.WARNING, "vllm.pcg"):
        for _ in range(3):
            call(sample, [1], metadata, torch.tensor([4]), DRAFT[:1], TARGET[:1].log(), torch.tensor([5]), 1)
    assert [record.message.split(",")[0] for record in caplog.records] == ["pcg: a request has penalties"]


def test_the_size_of_llasa() -> None:
    """65,536 audio tokens among 193,800: the shapes that vLLM would give, 8 requests with 3 drafts each."""
    vocab, audio, rows = 193_800, torch.arange(65_536) + 128_264, 8
    table = GroupTable.from_members([[*range(k, k + 64)] for k in range(0, 65_536, 64)], 65_536).in_vocabulary(
        audio, vocab
    )
    generator = torch.Generator().manual_seed(2)
    draft, target = (torch.full((3 * rows, vocab), -torch.inf) for _ in range(2))
    draft[:, audio] = 2 * torch.randn(3 * rows, 65_536, generator=generator)
    target[:, audio] = draft[:, audio] + torch.randn(3 * rows, 65_536, generator=generator)
    probs = draft.softmax(1)
    drafts = draw(probs, torch.rand(3 * rows, dtype=torch.float64, generator=generator))
    kept = {}
    for name, rule in (("exact", Exact()), ("pcg", PCG(table))):
        tokens = call(
            RejectionSample(rule, refuse), [3] * rows, Metadata(torch.ones(rows)), drafts, probs, target,
            torch.full((rows,), int(audio[0])),
        )  # fmt: skip
        said = tokens[tokens >= 0]
        assert ((said >= audio[0]) & (said <= audio[-1])).all()
        kept[name] = len(said)
    assert kept["pcg"] > kept["exact"]


def test_temperatures_of_drafted_rows() -> None:
    temperature, ends = torch.tensor([0.8, 0.0, 1.5]), torch.tensor([2, 2, 5], dtype=torch.int32)
    expanded = expand_batch_to_tokens(temperature, ends, 5, replace_from=0, replace_to=1)
    torch.testing.assert_close(expanded, torch.tensor([0.8, 0.8, 1.5, 1.5, 1.5]))
    ends = torch.tensor([1, 3, 3], dtype=torch.int32)
    assert expand_batch_to_tokens(temperature, ends, 3, 0, 1).tolist() == [pytest.approx(0.8), 1, 1]
    top_k = expand_batch_to_tokens(torch.tensor([50, 0, 7], dtype=torch.int32), ends, 3)
    assert top_k.dtype == torch.int32
    assert top_k.tolist() == [50, 0, 0]
