import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pcg.codecs.fsq import FSQ


@given(st.lists(st.integers(2, 5), min_size=1, max_size=5))
def test_every_token_has_its_own_grid_point_and_comes_back(levels):
    fsq = FSQ(levels)
    tokens = torch.arange(fsq.size)
    values = fsq.values(tokens)
    assert values.abs().max() <= 1
    assert len(values.unique(dim=0)) == fsq.size
    # a latent whose bounded value is the grid point itself quantises to it
    latent = torch.erfinv(values * (fsq.levels - 1) / fsq.levels) * 2**0.5
    again, same = fsq(latent)
    assert torch.equal(same, tokens)
    torch.testing.assert_close(again, values)


def test_hand_computed_digits():
    fsq = FSQ([4, 3])  # token = first + 4 * second
    torch.testing.assert_close(
        fsq.values(torch.tensor([0, 3, 4, 11])), torch.tensor([[-1.0, -1], [1, -1], [-1, 0], [1, 1]])
    )


@pytest.mark.parametrize("levels", [[4] * 3, [3, 5]])
def test_unit_variance_latents_use_every_level_alike(levels):
    fsq = FSQ(levels)
    _, tokens = fsq(torch.randn(200_000, len(levels), generator=torch.Generator().manual_seed(0)))
    share = torch.bincount(tokens, minlength=fsq.size) / len(tokens)
    assert (share * fsq.size - 1).abs().max() < 0.08


def test_gradients_pass_the_rounding():
    latent = torch.zeros(5, 2, requires_grad=True)
    FSQ([4, 4])(latent)[0].sum().backward()
    assert (latent.grad > 0).all()
