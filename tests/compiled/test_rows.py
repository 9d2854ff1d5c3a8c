"""What ``sampling.c`` gives of whole rows is what torch gives."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from pcg.compiled import library, rows
from pcg.sampling import Sampling, check_probabilities, draw_among, draw_and_add_up, draw_excess, total_among

pytestmark = pytest.mark.skipif(library() is None, reason="no C compiler here")
SIZES = (1, 7, 8, 16, 63, 64, 65, 97, 128, 4097)


def seeded(size: int, *shape: int, zeros: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(size)
    weights = torch.rand(*shape, size, generator=generator).pow(8)
    return weights * (torch.rand(weights.shape, generator=generator) >= zeros)


def by_torch(function, *args):
    with patch.object(rows, "can_take", lambda *_: False):
        return function(*args)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_softmax(size: int, temperature: float) -> None:
    logits = 20 * seeded(size, 2, 3) - 10
    logits[0, 1, ::3] = -math.inf
    logits[0, 1, 0] = 1.0
    found, wanted = Sampling(temperature).probabilities(logits), by_torch(Sampling(temperature).probabilities, logits)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-8)
    check_probabilities(found=found)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 17, 96])
def test_softmax_of_what_is_no_number_is_found(wrong: float, place: int) -> None:
    logits = seeded(97, 1, 2)
    logits[0, 1, place] = wrong
    with pytest.raises(ValueError, match="NaN or infinity in 1 of 2 rows"):
        check_probabilities(probs=Sampling(0.8).probabilities(logits))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("place", [0, -1])
@pytest.mark.parametrize("wrong", [math.nan, math.inf, -0.01, 0.5])
def test_what_is_no_distribution(size: int, place: int, wrong: float) -> None:
    probs = seeded(size, 3)
    probs /= probs.sum(-1, keepdim=True)
    assert rows.are_distributions(probs, 1e-3)
    probs[2, place] += wrong
    assert not rows.are_distributions(probs, 1e-3)
    with pytest.raises(ValueError, match="probs"):
        check_probabilities(probs=probs)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("zeros", [0.0, 0.7])
def test_draws(size: int, zeros: float) -> None:
    weights = seeded(size, 2, 3, zeros=zeros)
    uniform = torch.rand(2, 3, 200, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    uniform[..., 0], uniform[..., 1] = 0, 1 - 2.0**-52
    (found, totals), (wanted, sums) = (
        run(draw_and_add_up, weights, uniform) for run in (lambda f, *a: f(*a), by_torch)
    )
    torch.testing.assert_close(totals, sums, rtol=1e-12, atol=0)
    assert torch.equal(found, wanted)
    assert (weights.gather(2, found) > 0)[totals > 0].all()


@pytest.mark.parametrize("shape", [(2, 3, 4), (1, 3, 1), (1, 1, 4), (1, 3, 4), (5, 4)])
def test_numbers_may_lie_apart(shape: tuple[int, ...]) -> None:
    numbers = torch.rand(*shape, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    weights = seeded(97, *shape[:-1])
    found, _ = draw_and_add_up(weights, numbers[..., 2])
    assert torch.equal(found, by_torch(draw_and_add_up, weights, numbers[..., 2])[0])


def test_a_row_of_zeros_gives_its_last_place() -> None:
    found, totals = draw_and_add_up(torch.zeros(1, 97), torch.tensor([[0.0, 0.5]], dtype=torch.float64))
    assert found.tolist() == [[96, 96]]
    assert totals.tolist() == [0]


@pytest.mark.parametrize("size", SIZES)
def test_draws_of_an_excess(size: int) -> None:
    weights, less = seeded(size, 300), seeded(size + 1, 300)[:, :size].contiguous()
    less[:10] = weights[:10]  # which leaves nothing: drawn from the weights
    uniform = torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found = draw_excess(weights, less, uniform)
    assert torch.equal(found, by_torch(draw_excess, weights, less, uniform))
    left = (weights - less).gather(1, found[:, None])[:, 0]
    assert ((left > 0) | ~((weights > less).any(1))).all()


@pytest.mark.parametrize(("batch", "rows", "n"), [(1, 4, 4), (3, 4, 4), (1, 1, 6), (3, 1, 6)])
def test_draws_among_some_ids(batch: int, rows: int, n: int) -> None:
    more, less = seeded(97, batch, rows), seeded(98, batch, rows)[..., :97].contiguous()
    ids = torch.randint(0, 97, (batch, n, 9), generator=torch.Generator().manual_seed(1))
    ids[0, 0] = int((less - more)[0, 0].argmax())  # which leaves nothing
    numbers = torch.rand(batch, n, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2))[..., 2]
    (found, totals), (wanted, sums) = (run(ids, more, less, numbers) for run in (draw_among, torch_among))
    assert torch.equal(found, wanted)
    assert float(totals[0, 0]) == 0
    torch.testing.assert_close(totals, sums, rtol=1e-12, atol=0)
    torch.testing.assert_close(total_among(ids, more, less), sums, rtol=1e-12, atol=0)


def torch_among(*given: Tensor) -> tuple[Tensor, Tensor]:
    return by_torch(draw_among, *given)


def test_what_it_does_not_take_is_torchs() -> None:
    plain = torch.rand(3, 97)
    assert rows.can_take(plain)
    for other in (plain.double(), plain.half(), plain.t(), plain.clone().requires_grad_(), plain.to("meta")):
        assert not rows.can_take(other)
        assert not rows.can_take(plain, other)
    with patch.object(torch.compiler, "is_compiling", lambda: True), patch.object(rows, "softmax", None):
        Sampling(0.8).probabilities(plain)  # as in a graph
