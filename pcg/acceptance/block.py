"""Block verification: exact speculative decoding that tests the block as one and so keeps more of it.

Source: Sun et al. 2025 (ICLR), arXiv 2403.10444, Algorithm 2 with Eq. 4 (residual) and Eq. 5 (acceptance), as restated
in vLLM's pull request 46781 and vllm-ascend's 7808, which were read; the paper itself only in its abstract. No
departure. Note that a verdict depends on drafts that were not kept, because every longer prefix failed its test; so a
later round must not reuse their random numbers. Here draft i of a round that starts at position s uses draw i of
position s; the decode loop must draw the drafted tokens in the same way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.acceptance.checks import Probs, Rates, check_block, check_pair
from pcg.acceptance.steps import at_end, emit, of_drafted
from pcg.sampling import Purpose, Randomness
from pcg.types import Verdict


@dataclass(frozen=True)
class Block:
    """Keep the longest prefix whose test passes; recover from the joint residual.

    With ``c_0 = 1``, ``c_i = min(1, c_{i-1} p_i(x_i)/q_i(x_i))`` and the residual mass
    ``Z_i = sum_x (c_i p_{i+1}(x) - q_{i+1}(x))+``, prefix i passes when ``u_i < h_i``, where
    ``h_i = Z_i/(Z_i + 1 - c_i)`` for ``i < gamma`` and ``h_gamma = c_gamma``. The next token is drawn from
    ``(c_i p_{i+1} - q_{i+1})+``.

    Law: the target's, jointly for the block (theorem 1; enumerated for gamma = 2 in the tests), and no rule with the
    same information keeps more in expectation (theorem 2).
    """

    def verify(
        self,
        draft_tokens: Int[Tensor, "batch gamma"],
        draft_probs: Float[Tensor, "batch gamma vocab"],
        target_probs: Float[Tensor, "batch gamma+1 vocab"],
        positions: Int[Tensor, "batch"],
        randomness: Randomness,
    ) -> Verdict:
        check_block(draft_tokens, draft_probs, target_probs, positions)
        gamma = draft_tokens.shape[1]
        draft, target = of_drafted(draft_probs, draft_tokens), of_drafted(target_probs[:, :gamma], draft_tokens)
        joint = joint_ratio(target / draft)
        keep = keep_probability(draft_probs, target_probs, joint)
        accepted = longest(randomness.draws(positions, Purpose.ACCEPT, gamma) < keep)

        draft_end, target_end = at_end(accepted, draft_probs, target_probs)
        share = joint.gather(1, accepted.unsqueeze(1))
        recovered = (share * target_end - draft_end).clamp(min=0)
        return emit(accepted, recovered, target_end, randomness.block(positions, gamma + 1))

    def law(self, draft_probs: Probs, target_probs: Probs) -> Probs:
        check_pair(draft_probs, target_probs)
        return target_probs

    def expected_acceptance(self, draft_probs: Probs, target_probs: Probs) -> Rates:
        """For a block of one token, the same as exact's; longer blocks keep at least as large a share."""
        check_pair(draft_probs, target_probs)
        return draft_probs.minimum(target_probs).sum(-1)


def joint_ratio(ratios: Float[Tensor, "batch gamma"]) -> Float[Tensor, "batch gamma+1"]:
    """``c_0 .. c_gamma``, float64."""
    joint = [torch.ones(len(ratios), dtype=torch.float64, device=ratios.device)]
    for ratio in ratios.unbind(1):
        joint.append((joint[-1] * ratio).clamp(max=1))
    return torch.stack(joint, 1)


def keep_probability(
    draft_mass: Float[Tensor, "batch gamma outcomes"],
    target_mass: Float[Tensor, "batch gamma+1 outcomes"],
    joint: Float[Tensor, "batch gamma+1"],
) -> Float[Tensor, "batch gamma"]:
    """``h_1 .. h_gamma``, over tokens or over groups."""
    gamma = draft_mass.shape[1]
    inner = joint[:, 1:gamma]
    excess = inner.unsqueeze(2) * target_mass[:, 1:gamma] - draft_mass[:, 1:]
    left = excess.clamp(min=0).sum(2)
    missing = left + 1 - inner
    keep = torch.where(missing > 0, left / torch.where(missing > 0, missing, 1), 1)  # c = 1 and p = q: the limit
    return torch.cat([keep, joint[:, gamma:]], 1)


def longest(passed: Bool[Tensor, "batch gamma"]) -> Int[Tensor, "batch"]:
    """The length of the longest prefix that passed, even if a shorter one did not."""
    lengths = torch.arange(1, passed.shape[1] + 1, device=passed.device)
    return (passed * lengths).amax(1)
