"""Prints which theta a table needs: the sizes of its cosine groups, raw and centred, with warnings."""

from __future__ import annotations

from collections.abc import Iterator

from jaxtyping import Int
from torch import Tensor

from pcg.groups.sizes import Read, Sizes, chance, sizes

MEANS = (10, 30, 140)  # tokens a group: small, middling, the paper's
_SHARED = 0.3  # mean cosine of two rows above which raw cosines mostly measure what all rows have in common
_UNTRAINED = 1.3  # times the theta of random directions, below which a table looks untrained
_THETAS = (0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 0.9)
_CELL = 9  # a column


def show(read: Read, rows: int) -> tuple[float, bool] | None:
    """Print the sizes; returns the theta of a mean group of ``MEANS[1]`` tokens, and whether to centre.

    None is returned where no theta gives such groups.

    Args:
        read: as for ``sizes``.
    """
    try:
        raw, centred = sizes(read, rows)
    except ValueError as error:
        print(f"  none: {error}")
        return None
    print("\n".join(f"  {line}".rstrip() for line in _table(raw, centred)))
    center = raw.mean_cosine > _SHARED
    theta = (centred if center else raw).theta_of(MEANS[1])
    if center:
        print(
            f"\nWARNING: two rows have a mean cosine of {raw.mean_cosine:.2f}, since all rows have a part in common:\n"
            "a raw theta hardly tells tokens apart. Centre (grouping.groups.center=true)."
        )
    by_chance = chance(MEANS[1], rows, raw.width)
    if theta is not None and by_chance is not None and theta < _UNTRAINED * by_chance:
        print(f"\nWARNING: rows are hardly more alike than random directions (theta {theta:.3f} and {by_chance:.3f}).")
    return None if theta is None else (theta, center)


def _table(raw: Sizes, centred: Sizes) -> Iterator[str]:
    seeds = len(raw.beyond)
    drawn = "" if seeds == raw.rows else f", {seeds:,} of them drawn as seeds"
    yield f"{raw.rows:,} rows of {raw.width:,}{drawn}"
    yield ""
    yield f"{'theta for a mean group of':<28}" + "".join(f"{mean:>{_CELL}}" for mean in MEANS) + "   mean cosine"
    for name, of in (("raw", raw), ("centred", centred)):
        thetas = "".join(_theta(of.theta_of(mean)) for mean in MEANS)
        yield f"  {name:<26}{thetas}{of.mean_cosine:>14.3f}"
    by_chance = "".join(_theta(chance(mean, raw.rows, raw.width)) for mean in MEANS)
    yield f"  {'random directions':<26}{by_chance}"
    yield ""
    yield f"{'':<6}" + "".join(f"{name:>{4 * _CELL}}" for name in ("raw", "centred"))
    yield f"{'theta':<6}" + 2 * "".join(f"{what:>{_CELL}}" for what in ("mean", "median", "largest", "alone"))
    for theta in _THETAS:
        yield f"{theta:<6}" + "".join(_cells(of.at(theta)) for of in (raw, centred))


def _theta(theta: float | None) -> str:
    return f"{'-' if theta is None else f'{theta:.3f}':>{_CELL}}"


def _cells(counts: Int[Tensor, "seeds"]) -> str:
    """Of the sizes of groups: mean, median, largest, and the share of groups with one token."""
    mean, alone = counts.double().mean().item(), (counts == 1).double().mean().item()
    shown = (f"{mean:,.1f}", f"{int(counts.median()):,}", f"{int(counts.max()):,}", f"{alone:.0%}")
    return "".join(f"{cell:>{_CELL}}" for cell in shown)
