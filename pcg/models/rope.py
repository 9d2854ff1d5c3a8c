"""Angles of rotary positions (RoPE, arXiv 2104.09864), in float32. Those of scaled kinds come from transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

# "dynamic" stretches beyond the model's positions only, where no cache here reaches: until there it is "default".
_PLAIN = ("default", "dynamic")
KINDS = (*_PLAIN, "linear", "llama3", "yarn", "longrope", "proportional")


@dataclass(frozen=True)
class Rope:
    """What config.json says of positions.

    Attributes:
        settings: ``rope_parameters``; of older folders ``rope_scaling`` with ``rope_theta``.
        dim: of a head.
        positions: how many the model was trained for.
    """

    settings: dict[str, Any]
    dim: int
    positions: int

    @property
    def kind(self) -> str:
        return self.settings.get("rope_type", self.settings.get("type", "default"))

    @property
    def known_positions(self) -> int:
        """Positions that one table of angles is right for.

        LongRoPE turns a whole sequence differently once it is longer than the original positions, cached keys
        included, so only the original positions are known.
        """
        original = self.settings.get("original_max_position_embeddings", self.positions)
        return min(self.positions, original) if self.kind == "longrope" else self.positions

    def check(self) -> None:
        """Raises ValueError for a kind that is not known, and for a model that turns only a part of each head."""
        if self.kind not in KINDS:
            raise ValueError(f"rope_type={self.kind!r} in config.json: this decoder reads {', '.join(KINDS)}")
        share = self.settings.get("partial_rotary_factor", 1.0)
        if self.kind != "proportional" and share != 1.0:
            raise ValueError(f"partial_rotary_factor={share} in config.json: this decoder reads 1.0 only")

    def frequencies(self) -> tuple[Float[Tensor, "half"], float]:
        """Radians a position, and what cos and sin are multiplied by.

        Raises:
            ValueError: a setting is missing, or the kind is scaled and transformers is not installed.
        """
        if self.kind in _PLAIN:
            powers = torch.arange(0, self.dim, 2, dtype=torch.float32) / self.dim
            return 1.0 / self.settings["rope_theta"] ** powers, 1.0
        try:
            from transformers import LlamaConfig  # seconds; needed for scaled kinds only
            from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

            settings = {**self.settings, "rope_type": self.kind}
            config = LlamaConfig(head_dim=self.dim, max_position_embeddings=self.positions, rope_parameters=settings)
            return ROPE_INIT_FUNCTIONS[self.kind](config, torch.device("cpu"))
        except KeyError as error:
            raise ValueError(f"config.json: {error.args[0]}") from error
        except ImportError as error:
            raise ValueError(
                f"rope_type={self.kind!r} in config.json needs transformers: pip install pcg[transformers]"
            ) from error


def rope_table(rope: Rope, device: torch.device) -> Float[Tensor, "positions half 2"]:
    """cos and sin of every position and frequency, side by side as in a complex number, times the kind's scale."""
    frequencies, scale = rope.frequencies()
    angles = torch.outer(torch.arange(rope.known_positions, dtype=torch.float32), frequencies)
    return torch.view_as_real(torch.polar(torch.full_like(angles, scale), angles)).to(device)
