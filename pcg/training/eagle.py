"""The draft of ``pcg.models.eagle`` in training: all positions at once, several draft steps unrolled.

At depth 1 every position reads the target's states. At depth n it reads the state that depth n - 1 computed at the
position before; it attends to entries of depth 1 at positions where a round would have the target's states, and to its
own chain after these (the training-time test of EAGLE-3, arXiv 2503.01840). So the draft is trained on the states that
it will have when decoding.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor, nn

from pcg.models.budget import kept_entries
from pcg.models.checkpoint import read_tensors
from pcg.models.decoder import LlamaConfig
from pcg.models.rope import rope_table

_SELF, _MLP = "self_attn.", "mlp."


@dataclass(frozen=True)
class View:
    """A draft with a budget: positions from ``cut`` on attend only to ``budget`` entries of those before it."""

    cut: int
    budget: int


class Norm(nn.Module):
    """RMS norm in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), eps

    def forward(self, x: Float[Tensor, "... width"]) -> Float[Tensor, "... width"]:
        return F.rms_norm(x.float(), self.weight.shape, self.weight, self.eps)


class MidLayer(nn.Module):
    """The decoder layer; its parameters have the names of the folder's tensors."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        width, heads, keys = config.width, config.heads * config.head_dim, config.kv_heads * config.head_dim
        self.input_layernorm, self.hidden_norm = Norm(width, config.eps), Norm(width, config.eps)
        self.post_attention_layernorm = Norm(width, config.eps)
        sizes = {"q_proj": (2 * width, heads), "k_proj": (2 * width, keys), "v_proj": (2 * width, keys)}
        sizes["o_proj"] = (heads, width)
        self.self_attn = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})
        sizes = {"gate_proj": (width, config.hidden), "up_proj": (width, config.hidden)}
        sizes["down_proj"] = (config.hidden, width)
        self.mlp = nn.ModuleDict({name: nn.Linear(*size, bias=False) for name, size in sizes.items()})

    def feed(self, x: Float[Tensor, "batch length width"]) -> Float[Tensor, "batch length width"]:
        x = self.post_attention_layernorm(x)
        return self.mlp["down_proj"](F.silu(self.mlp["gate_proj"](x)) * self.mlp["up_proj"](x))


class Eagle(nn.Module):
    """Maps embeddings and target states to normed states of each depth, from which the target's head makes logits."""

    rotations: Tensor

    def __init__(self, config: LlamaConfig, reads: int) -> None:
        """``reads``: how many of the target's states are read."""
        super().__init__()
        self.config = config
        self.fc = nn.Linear(reads * config.width, config.width, bias=False)
        self.midlayer = MidLayer(config)
        self.norm = Norm(config.width, config.eps)
        self.register_buffer("rotations", rope_table(config.rope, torch.device("cpu")), persistent=False)

    def forward(
        self,
        embedded: Float[Tensor, "batch length width"],
        states: Float[Tensor, "batch length features"],
        depths: int,
        view: View | None = None,
    ) -> list[Float[Tensor, "batch length width"]]:
        """State n at position p, from which depth n + 1 predicts the token after p; ``view``: with a budget."""
        x, layer = self.fc(_later(states)), self.midlayer
        out: list[Tensor] = []
        past: list[tuple[Tensor, Tensor]] = []  # keys and values of each depth
        barred: Tensor | None = None
        for _ in range(depths):
            read = torch.cat([layer.input_layernorm(embedded), layer.hidden_norm(x)], -1)
            query, key, value = (self._heads(layer.self_attn[name](read)) for name in ("q_proj", "k_proj", "v_proj"))
            past.append((self._turn(key), value))
            if view is not None and barred is None:
                barred = _barred(past[0][0].detach(), view)
            mixed = _chain_attention(self._turn(query), past, barred)
            x = x + layer.self_attn["o_proj"](mixed.transpose(1, 2).flatten(2))
            x = x + layer.feed(x)
            out.append(self.norm(x))
            x = _later(x)
        return out

    def _heads(self, x: Float[Tensor, "batch length size"]) -> Float[Tensor, "batch heads length dim"]:
        return x.unflatten(-1, (-1, self.config.head_dim)).transpose(1, 2)

    def _turn(self, x: Float[Tensor, "batch heads length dim"]) -> Float[Tensor, "batch heads length dim"]:
        cos, sin = self.rotations[: x.shape[2]].to(x.dtype).unbind(-1)
        first, second = x.chunk(2, -1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], -1)

    def start_from(self, layer: dict[str, Tensor], norm: Tensor) -> None:
        """Starts from a layer of the target: its attention, for the states alone at first, and its MLP."""
        with torch.no_grad():
            for name, module in self.midlayer.self_attn.items():
                old, weight = layer[f"{_SELF}{name}.weight"].float(), module.get_parameter("weight")
                if name == "o_proj":
                    weight.copy_(old)
                else:
                    weight[:, : self.config.width].normal_(std=float(old.std()) / 4)
                    weight[:, self.config.width :].copy_(old)
            for name, module in self.midlayer.mlp.items():
                module.get_parameter("weight").copy_(layer[f"{_MLP}{name}.weight"].float())
            self.midlayer.hidden_norm.weight.copy_(layer["input_layernorm.weight"].float())
            self.midlayer.post_attention_layernorm.weight.copy_(layer["post_attention_layernorm.weight"].float())
            self.norm.weight.copy_(norm.float())
            width = self.config.width
            self.fc.weight.normal_(std=0.01)
            self.fc.weight[:, -width:] += torch.eye(width)

    def save(self, folder: Path, config: dict[str, Any]) -> None:
        """Writes the folder that ``pcg.models.eagle`` reads, in float16."""
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().half().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")

    def load(self, folder: Path) -> None:
        self.load_state_dict(
            {name: value.float() for name, value in read_tensors(folder / "model.safetensors").items()}
        )


def _later(x: Float[Tensor, "batch length width"], by: int = 1) -> Float[Tensor, "batch length width"]:
    """``x`` shifted ``by`` positions later, with zeros at the start."""
    return F.pad(x, (0, 0, by, 0))[:, : x.shape[1]]


def _barred(keys: Float[Tensor, "batch heads length dim"], view: View) -> Bool[Tensor, "batch length length"]:
    """Marks entries of the prompt (columns) that later positions (rows) do not attend to."""
    positions = torch.arange(keys.shape[2], device=keys.device)
    kept = torch.stack([torch.isin(positions, kept_entries(row[:, : view.cut], view.budget)) for row in keys])
    return (~kept & (positions < view.cut)).unsqueeze(1) & (positions >= view.cut).unsqueeze(1)


def _chain_attention(
    query: Float[Tensor, "batch heads length dim"],
    past: list[tuple[Tensor, Tensor]],
    barred: Bool[Tensor, "batch length length"] | None = None,
) -> Float[Tensor, "batch heads length dim"]:
    """Attention at depth n: entries of depth 1 up to n - 1 positions back, then one entry of each depth since."""
    batch, heads, length, size = query.shape
    query = query.reshape(batch * heads, length, size) * size**-0.5
    (keys, values), *chain = [
        tuple(part.repeat_interleave(heads // part.shape[1], 1).reshape(batch * heads, length, size) for part in pair)
        for pair in past
    ]
    mask = torch.full((length, length), -torch.inf, dtype=query.dtype, device=query.device).triu(1 - len(chain))
    mask = mask.expand(batch * heads, -1, -1)
    if barred is not None:
        mask = mask.masked_fill(barred.repeat_interleave(heads, 0), -torch.inf)
    scores = [torch.baddbmm(mask, query, keys.transpose(1, 2))]
    near = [
        (_later(key, len(chain) - 1 - i), _later(value, len(chain) - 1 - i)) for i, (key, value) in enumerate(chain)
    ]
    scores += [(query * key).sum(-1, keepdim=True) for key, _ in near]
    weights = torch.cat(scores, -1).softmax(-1)
    mixed = weights[..., :length] @ values
    for i, (_, value) in enumerate(near):
        mixed = mixed + weights[..., length + i, None] * value
    return mixed.view(batch, heads, length, size)
