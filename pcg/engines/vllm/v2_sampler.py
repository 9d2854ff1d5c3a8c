"""The rejection sampler that ``ModelState.custom_sampler`` returns: vLLM's with another ``_verify``."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler

from pcg.engines.vllm.penalties import warn_of_penalties
from pcg.engines.vllm.v2 import verify
from pcg.interfaces import Rule


class RuleSampler(RejectionSampler):
    """Verifies by one of our rules. vLLM's own decides where all requests are greedy or draft logits are missing."""

    def __init__(self, rule: Rule, sampler: Any, spec_config: Any, device: torch.device) -> None:
        super().__init__(sampler, spec_config, device)
        self.rule = rule

    def _verify(
        self,
        logits: Tensor,
        draft_logits: Tensor | None,
        draft_sampled: Tensor,
        pos: Tensor,
        cu_num_logits: Tensor,
        idx_mapping: Tensor,
        idx_mapping_np: Any,
        expanded_idx_mapping: Tensor,
        expanded_local_pos: Tensor,
        seq_lens_upper_bound_np: Any,
        verify_draft_sampled: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        if self.sampler.penalties_state.use_penalty[idx_mapping_np].any():  # numpy: no wait
            warn_of_penalties()
        states = self.sampler.sampling_states
        if draft_logits is None or (states.temperature.np[idx_mapping_np] == 0).all():
            return super()._verify(
                logits, draft_logits, draft_sampled, pos, cu_num_logits, idx_mapping, idx_mapping_np,
                expanded_idx_mapping, expanded_local_pos, seq_lens_upper_bound_np, verify_draft_sampled,
            )  # fmt: skip
        processed = self.sampler.apply_sampling_params(
            logits, expanded_idx_mapping, idx_mapping, idx_mapping_np, pos, draft_sampled, expanded_local_pos,
            seq_lens_upper_bound_np,
        )  # fmt: skip
        tokens = verify(
            self.rule, processed, draft_logits[idx_mapping], verify_draft_sampled, pos, cu_num_logits,
            states.temperature.gpu[idx_mapping], states.seeds.gpu[idx_mapping],
        )  # fmt: skip
        return processed, tokens.clamp(min=0), (tokens >= 0).sum(1, dtype=torch.int32)
