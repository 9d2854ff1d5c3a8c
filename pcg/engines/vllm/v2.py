"""vLLM's second model runner, the default where Triton works: replaces ``_verify`` of its rejection sampler.

Logits of all rows are flat, the last of each row for its bonus token; the draft's logits are stored by request, before
temperature.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.engines.decide import NONE, decide, rows_of
from pcg.interfaces import Rule
from pcg.sampling import Randomness

SIGNATURE = (
    "self", "logits", "draft_logits", "draft_sampled", "pos", "cu_num_logits", "idx_mapping", "idx_mapping_np",
    "expanded_idx_mapping", "expanded_local_pos", "seq_lens_upper_bound_np", "verify_draft_sampled",
)  # fmt: skip


def verify(
    rule: Rule,
    target_logits: Float[Tensor, "logits vocab"],
    draft_logits: Float[Tensor, "batch gamma vocab"],
    draft_sampled: Int[Tensor, "logits"],
    pos: Int[Tensor, "logits"],
    cu_num_logits: Int[Tensor, "batch+1"],
    temperature: Float[Tensor, "batch"],
    seeds: Int[Tensor, "batch"],
) -> Int[Tensor, "batch gamma+1"]:
    """The tokens of each row, padded with -1. The same seed and position give the same tokens.

    Args:
        target_logits: after temperature, top-k, top-p and penalties.
        draft_logits: before temperature.
        draft_sampled: for each row its last token, then its drafts; -1 where there is none.
        pos: position of that last token in its request.
        temperature: 0 for rows that are decoded greedily.
    """
    gamma = draft_logits.shape[1]
    starts = cu_num_logits[:-1].long()
    indices, is_draft = rows_of(starts, cu_num_logits.diff().long(), gamma + 1)
    drafts = torch.where(is_draft, draft_sampled[indices].long(), NONE)[:, 1:]
    greedy = temperature == 0
    scale = torch.where(greedy, 1.0, temperature)[:, None, None]
    return decide(
        rule,
        drafts,
        (draft_logits.float() / scale).softmax(-1),
        target_logits.softmax(-1, dtype=torch.float32)[indices],
        pos[starts].long(),
        Randomness(0, seeds.long()),
        greedy,
        target_logits.argmax(-1)[indices],
    )
