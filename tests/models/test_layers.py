"""A draft of the target's own layers: all of them are the target, fewer are a draft that shares its weights."""

from __future__ import annotations

import pytest
import torch

from pcg.models.layers import LayersLM
from pcg.models.llama import LlamaLM
from pcg.models.ngram import NGram
from pcg.models.phonemes import Phonemes
from tests.fakes import make_bundled_folder


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> LlamaLM:
    folder = make_bundled_folder(tmp_path_factory.mktemp("target"), layers=3)
    return LlamaLM(str(folder), Phonemes(str(folder)), "float32", "cpu", "speech")


def after(model, ids: torch.Tensor) -> torch.Tensor:
    return model.step(ids[None, -1:], model.prefill([ids], 20))


def test_all_layers_are_the_target_and_fewer_share_its_weights(target: LlamaLM) -> None:
    ids = torch.tensor([1, 8, 2, 3, 70, 71])
    whole, first, last = LayersLM(target, 3, "last"), LayersLM(target, 1, "first"), LayersLM(target, 2, "last")
    torch.testing.assert_close(after(whole, ids), after(target, ids))
    assert not torch.allclose(after(first, ids), after(target, ids), atol=1e-2)
    assert first.llama.layers[0] is target.llama.layers[0]
    assert last.llama.layers[-1] is target.llama.layers[-1]
    assert first.prefill([ids], 20).states.shape[0] == 1
    assert len(target.llama.layers) == target.llama.config.layers == 3  # the target is left as it was


def test_its_footprint_is_what_its_layers_read(target: LlamaLM) -> None:
    folder = str(target.folder)
    whole = LlamaLM.footprint(folder, "float32", "speech", 97)
    one, two = (LayersLM.footprint(folder, "float32", "speech", 97, count) for count in (1, 2))
    assert one.weights == 0
    assert whole.read - two.read == two.read - one.read > 0
    assert two.cache == 2 * one.cache


def test_what_has_no_such_layers_is_refused(target: LlamaLM) -> None:
    with pytest.raises(ValueError, match=r"draft\.count=4: the target has 3 layers"):
        LayersLM(target, 4, "last")
    with pytest.raises(ValueError, match="the target is a NGram"):
        LayersLM(NGram(13), 1, "last")
