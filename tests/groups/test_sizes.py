"""Sizes told from histograms are those of the groups that the builder makes."""

from __future__ import annotations

import pytest
import torch

from pcg.groups import sizes as module
from pcg.groups.cosine import Cosine
from pcg.groups.similarity import BLOCK
from pcg.groups.sizes import chance, sizes


def table(rows: int, width: int = 6, shared: float = 0.0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(rows, width, generator=generator) + shared


@pytest.mark.parametrize("rows", [200, BLOCK + 300])
def test_sizes_are_those_of_the_groups_that_would_be_built(rows: int) -> None:
    rows_of = table(rows, shared=0.6)
    rows_of[3] = 0  # has no direction: alone, also where it is not the mean
    raw, centred = sizes(lambda start, stop: rows_of[start:stop], rows)
    for theta in (0.8, 0.9):
        built = Cosine(theta).build(rows_of, None)
        assert (raw.at(theta) - built.sizes).abs().max() <= 1  # a cosine on the edge may fall to either side
        assert raw.at(theta).double().mean().item() == pytest.approx(built.report()["mean_size"], rel=1e-3)
        built = Cosine(theta, center=True).build(rows_of, None)
        assert centred.at(theta).double().mean().item() == pytest.approx(built.report()["mean_size"], rel=1e-3)
    assert raw.at(0.8)[3] == 1
    assert raw.mean_cosine > 0.15 > 0.01 > abs(centred.mean_cosine)


def test_the_theta_of_a_mean_is_the_smallest() -> None:
    rows_of = table(400)
    raw, _ = sizes(lambda start, stop: rows_of[start:stop], 400)
    theta = raw.theta_of(10)
    assert theta is not None
    assert raw.at(theta).double().mean() <= 10 < raw.at(theta - 0.001).double().mean()
    assert raw.theta_of(400) is chance(400, 400, 6) is None
    same = torch.ones(50, 4)
    assert sizes(lambda start, stop: same[start:stop], 50)[0].theta_of(10) is None


def test_of_a_large_table_some_rows_are_seeds_and_few_are_read_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows_of, asked = table(3 * BLOCK), []

    def read(start: int, stop: int) -> torch.Tensor:
        asked.append(stop - start)
        return rows_of[start:stop].bfloat16()

    monkeypatch.setattr(module, "_ALL", BLOCK)
    found, _ = sizes(read, len(rows_of), seeds=512)
    assert len(found.beyond) == 512
    assert max(asked) == BLOCK
    whole = Cosine(0.8).build(rows_of.bfloat16().float(), None).report()["mean_size"]
    assert found.at(0.8).double().mean().item() == pytest.approx(whole, rel=0.05)


def test_random_directions_have_the_groups_that_chance_gives() -> None:
    rows_of = table(3000, width=64)
    raw, _ = sizes(lambda start, stop: rows_of[start:stop], 3000)
    for mean in (10, 140):
        assert raw.theta_of(mean) == pytest.approx(chance(mean, 3000, 64), abs=0.02)


def test_what_has_no_groups_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1 row\(s\)"):
        sizes(lambda start, stop: torch.ones(1, 4), 1)
    with pytest.raises(ValueError, match="NaN or infinity"):
        sizes(lambda start, stop: torch.full((stop - start, 4), torch.nan), 5)
