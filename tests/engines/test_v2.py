"""vLLM's second runner without vLLM: its flat logits, slots of requests and placeholders in, tokens out."""

from __future__ import annotations

import torch

from pcg.acceptance.pcg import PCG
from pcg.engines.vllm.v2 import verify
from pcg.groups.table import GroupTable
from pcg.sampling import draw
from tests.engines.test_decide import DRAFT, GAMMA, GROUPS, TARGET, VOCAB, total_variation

TEMPERATURE = 0.8


def step(rule: object, counts: list[int], temperature: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """Rows of these many drafts; the target's logits come processed, the draft's do not."""
    torch.manual_seed(seed)
    batch = len(counts)
    places = torch.tensor([i for count in counts for i in range(count + 1)])
    drafts = draw(DRAFT.expand(batch, -1, -1), torch.rand(batch, GAMMA, dtype=torch.float64))
    sampled = torch.cat(
        [torch.cat([torch.tensor([1]), row[:count]]) for row, count in zip(drafts, counts, strict=True)]
    )
    return verify(
        rule, TARGET[places].log(), (DRAFT.log() * TEMPERATURE).expand(batch, -1, -1), sampled.to(torch.int32),
        places + 7, torch.tensor([0, *(count + 1 for count in counts)]).cumsum(0).to(torch.int32),
        temperature, torch.arange(batch) + 1_000_000 * seed,
    )  # fmt: skip


def test_ragged_rows_have_the_rules_law() -> None:
    counts = [3, 1, 2, 3] * 10_000
    tokens = step(PCG(GROUPS), counts, torch.full((len(counts),), TEMPERATURE))
    length = torch.tensor(counts)
    assert tokens.shape == (len(counts), GAMMA + 1)
    assert total_variation(tokens[:, 0], PCG(GROUPS).law(DRAFT[0], TARGET[0])) < 0.01
    whole = tokens[((tokens >= 0).sum(1) > length) & (length == 1), 1]
    assert total_variation(whole, TARGET[1]) < 0.01 * (40_000 / len(whole)) ** 0.5
    assert (tokens[torch.arange(GAMMA + 1) > length[:, None]] == -1).all()


def test_the_same_seed_and_position_give_the_same_tokens() -> None:
    counts = [3, 3, 2]
    temperature = torch.full((3,), TEMPERATURE)
    assert torch.equal(step(PCG(GROUPS), counts, temperature), step(PCG(GROUPS), counts, temperature))


def test_greedy_rows_and_placeholders() -> None:
    everything, best = PCG(GroupTable.from_members([list(range(VOCAB))], VOCAB)), TARGET.argmax(1)
    sampled = torch.tensor([1, best[0], best[1], 0, 1, 2, -1, 3], dtype=torch.int32)
    tokens = verify(
        everything, TARGET.repeat(2, 1).log(), DRAFT.log().expand(2, -1, -1), sampled, torch.arange(8),
        torch.tensor([0, 4, 8]), torch.tensor([0.0, 1.0]), torch.tensor([5, 6]),
    )  # fmt: skip
    assert tokens[0].tolist() == [best[0], best[1], best[2], -1 if best[2] else best[3]]
    assert tokens[1, 0] == 2  # one group holds everything: kept
    assert tokens[1, 1] >= 0
    assert tokens[1, 2:].tolist() == [-1, -1]
