"""How large a rule's groups are: of the table as a whole for the result, and token by token for the timeline."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pcg.decoding.tree import CandidateRule
from pcg.groups.table import GroupTable
from pcg.interfaces import Rule, StateRule


def _table(rule: Rule | StateRule | CandidateRule | None) -> GroupTable | None:
    return getattr(rule, "groups", None)


def size_report(rule: Rule | StateRule | CandidateRule | None) -> dict[str, Any] | None:
    """``GroupTable.report`` with a histogram: groups of 1, 2 to 3, 4 to 7, ... tokens. None without groups."""
    table = _table(rule)
    if table is None:
        return None
    counts = torch.bincount(table.sizes.cpu().double().log2().floor().long())
    edges = [2**power for power in range(len(counts) + 1)]
    return {**table.report(), "histogram": {"edges": edges, "counts": counts.tolist()}}


def mean_sizes(rule: Rule | StateRule | CandidateRule | None) -> Float[Tensor, "vocab"] | None:
    """For each token ``sum_k w[k,t] |G_k|``: the mean size of the groups that hold it, one of which a test draws."""
    table = _table(rule)
    return None if table is None else table.spread(table.sizes.double()).cpu()
