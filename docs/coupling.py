"""Draws coupling.svg: what four rules pair with what, on five tokens in a row. Run it as `python docs/coupling.py`."""

from __future__ import annotations

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import torch

from pcg.acceptance.bucket import Bucket
from pcg.acceptance.coupling import Coupling
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.groups.table import GroupTable

DRAFT = torch.tensor([0.05, 0.35, 0.30, 0.20, 0.10])
TARGET = torch.tensor([0.30, 0.15, 0.30, 0.05, 0.20])
GROUPS = GroupTable.from_members([[t for t in (k - 1, k, k + 1) if 0 <= t < 5] for k in range(5)], 5)
SAME, OTHER, IDLE = "#0072B2", "#D55E00", "#BBBBBB"


def main() -> None:
    alike = (torch.arange(5)[:, None] - torch.arange(5)).abs() <= 1
    over, under = (DRAFT - TARGET).clamp(min=0), (TARGET - DRAFT).clamp(min=0)
    shared = torch.diag(DRAFT.minimum(TARGET))
    largest = torch.maximum((over @ alike.float())[None, :], (alike.float() @ under)[:, None])
    flow = torch.where(largest > 0, over[:, None] * under / largest, 0) * alike
    panels = {
        "exact: equal tokens": (Exact(), shared),
        "bucket: two draws that are alike": (Bucket(GROUPS), torch.outer(DRAFT, TARGET) * alike),
        "pcg: through one group, drawn": (PCG(GROUPS), None),
        "coupling: equal, then alike": (Coupling(GROUPS), shared + flow),
    }
    plt.rcParams.update({"font.size": 9, "svg.hashsalt": "coupling", "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 4, figsize=(12, 3.6))
    for axis, (title, (rule, pairs)) in zip(axes, panels.items(), strict=True):
        alpha = float(rule.expected_acceptance(DRAFT, TARGET))
        distance = float((rule.law(DRAFT, TARGET) - TARGET).abs().sum() / 2)
        axis.set_title(f"{title}\nkept {alpha:.2f}, total variation {distance:.2f}")
        axis.axis("off")
        if pairs is None:
            through_groups(axis)
        else:
            for x, y in pairs.nonzero().tolist():
                join(axis, (0, x), (1, y), float(pairs[x, y]), SAME if x == y else OTHER)
        for side, probs, name in ((0, DRAFT, "draft"), (1, TARGET, "target")):
            axis.scatter([side] * 5, range(5), s=probs * 1500, color=IDLE, zorder=2)
            for token, prob in enumerate(probs.tolist()):
                axis.text(side, token, f"{prob:.2f}", ha="center", va="center", zorder=3, fontsize=8)
            axis.text(side, 4.75, name, ha="center")
        axis.set(xlim=(-0.25, 1.25), ylim=(-0.6, 5.0))
    figure.tight_layout()
    figure.savefig(Path(__file__).with_suffix(".svg"), metadata={"Date": None})


def through_groups(axis: plt.Axes) -> None:
    """A token is one of its groups, each as likely; of a group as much passes as both sides have."""
    draft, target = GROUPS.coarse(DRAFT), GROUPS.coarse(TARGET)
    passed = draft.minimum(target)
    members = GROUPS.members.split(GROUPS.sizes.tolist())
    for k, group in enumerate(members):
        for token in group.tolist():
            share = float(GROUPS.weights[token])
            join(axis, (0, token), (0.5, k), float(DRAFT[token] * share * passed[k] / draft[k]), OTHER)
            join(axis, (0.5, k), (1, token), float(TARGET[token] * share * passed[k] / target[k]), OTHER)
    axis.scatter([0.5] * 5, range(5), s=60, marker="s", color="#000000", zorder=2)
    axis.text(0.5, 4.75, "group", ha="center")


def join(axis: plt.Axes, start: tuple[float, float], end: tuple[float, float], mass: float, color: str) -> None:
    xs, ys = zip(start, end, strict=True)
    axis.plot(xs, ys, color=color, linewidth=30 * mass, solid_capstyle="butt", alpha=0.8, zorder=1)


if __name__ == "__main__":
    main()
