"""vLLM's first model runner, which is used on a CPU: its function that decides about drafts is replaced.

``vllm.v1.sample.rejection_sampler.rejection_sample`` gets drafts, their probabilities and the target's logits as flat
tensors, one row after another, after temperature, top-k, top-p and penalties. Bonus tokens are already drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from pcg.engines.decide import decide, rows_of
from pcg.engines.vllm.penalties import warn_of_penalties
from pcg.interfaces import Rule
from pcg.sampling import Randomness

Sample = Callable[..., Tensor]
SIGNATURE = (
    "draft_token_ids", "num_draft_tokens", "max_spec_len", "cu_num_draft_tokens", "draft_probs", "target_logits",
    "bonus_token_ids", "sampling_metadata", "synthetic_mode", "synthetic_conditional_rates", "use_fp64_gumbel",
)  # fmt: skip


class RejectionSample:
    """Replaces ``rejection_sample``.

    vLLM's own function is used where all requests are greedy, and where drafts have no probabilities: it then takes
    them as certain, which is exact for any drafts.
    """

    def __init__(self, rule: Rule, exact: Sample) -> None:
        self.rule, self._exact = rule, exact

    def __call__(
        self,
        draft_token_ids: Int[Tensor, "tokens"],
        num_draft_tokens: list[int],
        max_spec_len: int,
        cu_num_draft_tokens: Int[Tensor, "batch"],
        draft_probs: Float[Tensor, "tokens vocab"] | None,
        target_logits: Float[Tensor, "tokens vocab"],
        bonus_token_ids: Int[Tensor, "batch 1"],
        sampling_metadata: Any,
        *others: Any,
        **named: Any,
    ) -> Int[Tensor, "batch {max_spec_len}+1"]:
        if not sampling_metadata.no_penalties:
            warn_of_penalties()
        if draft_probs is None or sampling_metadata.all_greedy:
            return self._exact(
                draft_token_ids, num_draft_tokens, max_spec_len, cu_num_draft_tokens, draft_probs, target_logits,
                bonus_token_ids, sampling_metadata, *others, **named,
            )  # fmt: skip
        vocab, bonus = target_logits.shape[1], bonus_token_ids.flatten().long()
        counts = cu_num_draft_tokens.diff(prepend=cu_num_draft_tokens.new_zeros(1)).long()
        indices, is_draft = rows_of(cu_num_draft_tokens - counts, counts, max_spec_len)
        indices = indices.clamp(max=len(draft_token_ids) - 1)
        drafts = torch.where(is_draft, draft_token_ids[indices].long(), -1)
        # a bonus token that is already drawn becomes a distribution with all probability on it
        behind = (len(draft_token_ids) + torch.arange(len(bonus), device=bonus.device)).unsqueeze(1)
        ends = torch.cat([torch.where(is_draft, indices, behind), behind], 1)
        drawn = target_logits.new_zeros(len(bonus), vocab, dtype=torch.float32).scatter_(1, bonus.unsqueeze(1), 1.0)
        target_probs = torch.cat([target_logits.softmax(-1, dtype=torch.float32), drawn])
        greedy = best = None
        if not sampling_metadata.all_random:
            greedy = sampling_metadata.temperature == 0
            best = torch.cat([target_logits.argmax(-1), bonus])[ends]
        keys = _keys(num_draft_tokens, sampling_metadata.generators, bonus.device)
        return decide(
            self.rule, drafts, draft_probs[indices], target_probs[ends], torch.zeros_like(keys), Randomness(0, keys),
            greedy, best,
        ).to(torch.int32)  # fmt: skip


def _keys(
    num_draft_tokens: list[int], generators: dict[int, torch.Generator], device: torch.device
) -> Int[Tensor, "batch"]:
    """New random keys for each row and round; a request with a seed draws from its own generator."""
    keys = torch.randint(2**62, (len(num_draft_tokens),), device=device)
    for row, generator in generators.items():
        if num_draft_tokens[row]:  # as in vLLM, a step without drafts does not advance the generator
            keys[row : row + 1].random_(0, 2**62, generator=generator)
    return keys


def expand_batch_to_tokens(
    x: Tensor, cu_num_tokens: Int[Tensor, "batch"], num_tokens: int, replace_from: float = 0, replace_to: float = 0
) -> Tensor:
    """Each row's value for each of its tokens, ``replace_to`` where it is ``replace_from``.

    vLLM's own function has a fault in the CPU build (0.22 to 0.33): it writes into a copy, and the temperatures of
    drafted rows are uninitialised memory.
    """
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1)).long()
    return torch.where(x == replace_from, replace_to, x).to(x.dtype).repeat_interleave(counts, output_size=num_tokens)
