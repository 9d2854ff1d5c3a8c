"""How fast rotary positions turn: the kinds of RoPE that transformers knows for decoders of Llama's line.

Source: RoPE, arXiv 2104.09864; YaRN, 2309.00071; LongRoPE, 2402.13753; llama3 as published with Llama 3.1. Float32
throughout, as in transformers.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Rope:
    """What config.json says of positions.

    Attributes:
        settings: ``rope_parameters``; of older folders ``rope_scaling`` with ``rope_theta``.
        dim: of a head.
        positions: how many the model knows.
    """

    settings: dict[str, Any]
    dim: int
    positions: int

    @property
    def plain(self) -> Float[Tensor, "half"]:
        return 1.0 / self.settings["rope_theta"] ** (torch.arange(0, self.dim, 2, dtype=torch.float32) / self.dim)

    @property
    def factor(self) -> float:
        return float(self.settings["factor"])

    @property
    def original(self) -> int:
        """Positions that the model was first trained on."""
        return self.settings["original_max_position_embeddings"]

    @property
    def stretch(self) -> float:
        """``factor``, or where a config leaves it open, what its two numbers of positions say."""
        return float(self.settings.get("factor") or self.positions / self.original)


Turning = tuple[Float[Tensor, "half"], float]  # radians a position, and what cos and sin are multiplied by


def _default(rope: Rope) -> Turning:
    """Also ``dynamic``, which stretches beyond the model's positions only, where no cache here reaches."""
    return rope.plain, 1.0


def _linear(rope: Rope) -> Turning:
    return rope.plain / rope.factor, 1.0


def _llama3(rope: Rope) -> Turning:
    low, high = rope.settings["low_freq_factor"], rope.settings["high_freq_factor"]
    turns = rope.original * rope.plain / (2 * math.pi)
    share = ((turns - low) / (high - low)).clamp(0, 1)  # 0: stretched by factor; 1: left alone
    return rope.plain / rope.factor * (1 - share) + rope.plain * share, 1.0


def _yarn(rope: Rope) -> Turning:
    settings, factor = rope.settings, rope.stretch

    def place(turns: float) -> float:
        """Of the frequency that turns so often over the original positions."""
        return rope.dim * math.log(rope.original / (turns * 2 * math.pi)) / (2 * math.log(settings["rope_theta"]))

    low, high = place(float(settings.get("beta_fast") or 32)), place(float(settings.get("beta_slow") or 1))
    if settings.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, rope.dim - 1)
    stretched = ((torch.arange(rope.dim // 2) - low) / ((high - low) or 0.001)).clamp(0, 1)
    frequencies = rope.plain / factor * stretched + rope.plain * (1 - stretched)

    def scale(weight: float) -> float:
        return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

    whole, part = settings.get("mscale"), settings.get("mscale_all_dim")
    scaled = scale(float(whole)) / scale(float(part)) if whole and part else scale(1.0)
    given = settings.get("attention_factor")
    return frequencies, scaled if given is None else given


def _longrope(rope: Rope) -> Turning:
    """The short factors; the long ones hold for whole sequences beyond the original positions (see ``known``)."""
    short = torch.tensor(rope.settings["short_factor"], dtype=torch.float32)
    given, factor = rope.settings.get("attention_factor"), rope.stretch
    scaled = math.sqrt(1 + math.log(factor) / math.log(rope.original)) if factor > 1 else 1.0
    return rope.plain / short, scaled if given is None else given


def _proportional(rope: Rope) -> Turning:
    turned = int(rope.settings.get("partial_rotary_factor", 1.0) * rope.dim // 2)
    still = torch.arange(rope.dim // 2) >= turned
    return rope.plain.masked_fill(still, 0.0) / rope.settings.get("factor", 1.0), 1.0


_KINDS: dict[str, Callable[[Rope], Turning]] = {
    "default": _default, "linear": _linear, "dynamic": _default, "llama3": _llama3, "yarn": _yarn,
    "longrope": _longrope, "proportional": _proportional,
}  # fmt: skip


def kind_of(settings: dict[str, Any]) -> str:
    """Raises ValueError for a kind that is not known, or for a model that turns a part of each head only."""
    kind = settings.get("rope_type", settings.get("type", "default"))
    if kind not in _KINDS:
        raise ValueError(f"rope_type={kind!r} in config.json: this decoder knows {', '.join(_KINDS)}")
    if kind != "proportional" and settings.get("partial_rotary_factor", 1.0) != 1.0:
        raise ValueError(f"partial_rotary_factor={settings['partial_rotary_factor']} in config.json: only whole heads")
    return kind


def known(rope: Rope) -> int:
    """Positions that one table of angles is right for.

    LongRoPE turns a whole sequence otherwise once it is longer than the original positions, cached keys included:
    what is beyond is not known here.
    """
    return min(rope.positions, rope.original) if kind_of(rope.settings) == "longrope" else rope.positions


def rope_table(rope: Rope, device: torch.device) -> Float[Tensor, "positions half 2"]:
    """cos and sin of every position and frequency, side by side as in a complex number, times the kind's scale."""
    frequencies, scale = _KINDS[kind_of(rope.settings)](rope)
    angles = torch.outer(torch.arange(known(rope), dtype=torch.float32), frequencies)
    return torch.view_as_real(torch.polar(torch.full_like(angles, scale), angles)).to(device)
