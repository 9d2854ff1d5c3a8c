"""On a GPU an adapter waits for nothing, whatever the rows are: vLLM's own schedule stays."""

from __future__ import annotations

import pytest
import torch

from pcg.acceptance.coupling import Coupling
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.acceptance.ssd import SSD
from pcg.engines.vllm import v1, v2
from tests.counter import Waits
from tests.engines.test_decide import DRAFT, GROUPS, TARGET, VOCAB
from tests.engines.test_v1 import Metadata, refuse

COUNTS = [3, 0, 2, 3]


@pytest.fixture(params=[Exact(), SSD(0.2), PCG(GROUPS), Coupling(GROUPS)], ids=["exact", "ssd", "pcg", "coupling"])
def rule(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> object:
    """Where nobody may look at values. What a table keeps of itself is there already."""
    GROUPS.members_of(torch.tensor([0]))
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    return request.param


def test_the_first_runner(rule: object) -> None:
    rows = torch.tensor([i for count in COUNTS for i in range(count)])
    drafts, ends = (rows + 4).to(torch.int32), torch.tensor(COUNTS).cumsum(0).to(torch.int32)
    probs, logits = DRAFT[rows], TARGET[rows].log()
    bonus, temperature = torch.full((4, 1), 5, dtype=torch.int32), torch.tensor([0.8, 0.8, 0.0, 0.8])
    metadata = Metadata(temperature, all_random=False, generators={3: torch.Generator().manual_seed(0)})
    with Waits([drafts, ends, probs, logits, bonus, temperature]) as waits:
        tokens = v1.RejectionSample(rule, refuse)(drafts, COUNTS, 3, ends, probs, logits, bonus, metadata)
        v1.expand_batch_to_tokens(temperature, ends, len(rows), 0, 1)
    assert waits.places == {}
    assert (tokens >= 0).any(1).all()


def test_the_second_runner(rule: object) -> None:
    places = torch.tensor([i for count in COUNTS for i in range(count + 1)])
    given = (
        TARGET[places].log(), DRAFT.log().expand(4, -1, -1).clone(), torch.where(places > 0, places + 4, 1), places,
        torch.tensor([0, *(count + 1 for count in COUNTS)]).cumsum(0), torch.tensor([0.8, 0.8, 0.0, 0.8]),
        torch.arange(4),
    )  # fmt: skip
    with Waits(given) as waits:
        tokens = v2.verify(rule, *given)
    assert waits.places == {}
    assert ((tokens >= 0).sum(1) <= torch.tensor(COUNTS) + 1).all()
    assert int(tokens.max()) < VOCAB
