"""What a pass and a round ask of a device, counted on a CPU. The numbers are ceilings: they may only fall."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcg.acceptance.coupling import Coupling
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.compiled import library
from pcg.decoding.clock import Clock
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.interfaces import Rule, TokenLM
from pcg.models import layer_ops
from pcg.models.eagle import EagleLM
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.sampling import Randomness, Sampling, as_keys
from pcg.training.students import EagleDraft
from pcg.training.teacher import Teacher
from pcg.types import Utterance
from tests.acceptance.harness import table
from tests.counter import Operations, Waits
from tests.fakes import make_bundled_folder

TEXTS = ("Yes sir, the fox.", "Who is there?", "Come here now, please.", "The cat sat.")
GAMMA = 3


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> dict[str, TokenLM]:
    """A target, a draft and a head that reads the target, of 3, 2 and 1 layers."""
    root = tmp_path_factory.mktemp("counted")
    target, draft = (load(root / name, layers) for name, layers in (("target", 3), ("draft", 2)))
    teacher, maker = Teacher(str(target.folder), target.text.speech_ids), EagleDraft([1, 2, 3])
    maker.save(maker.make(teacher), root / "eagle", teacher)
    return {"target": target, "draft": draft, "eagle": EagleLM(str(root / "eagle"), target, "float32", "cpu")}


def load(folder: Path, layers: int, dtype: str = "float32") -> LlamaLM:
    folder = folder if folder.exists() else make_bundled_folder(folder, layers=layers, seed=layers)
    return LlamaLM(str(folder), Phonemes(str(folder)), dtype, "cpu", "speech")


def on_device(models: dict[str, TokenLM], rule: object) -> list[torch.Tensor]:
    """Weights and tables, from which all that is computed on the device is made."""
    found = [models[name].llama.table for name in ("target", "draft")]
    if isinstance(rule, Coupling):
        near = rule.alike.near
        found += [near.members, near.owners, near.starts, near.spans, *([] if near.padded is None else [near.padded])]
    if isinstance(rule, PCG | Coupling):
        groups = rule.groups
        found += [groups.members, groups.holders, groups.member_starts, groups.holder_starts]
    return found


@pytest.mark.parametrize(("dtype", "ceiling"), [("float32", 19), ("bfloat16", 13)])
def test_operations_a_layer(dtype: str, ceiling: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if dtype == "bfloat16":
        monkeypatch.setattr(layer_ops, "norm_is_fused", lambda device: True)  # as on a GPU
    counts = []
    for layers in (2, 3):
        model = load(tmp_path / str(layers), layers, dtype)
        cache = model.prefill([torch.arange(10)], 64)
        with Operations() as operations:
            model.step(torch.arange(GAMMA + 1).unsqueeze(0), cache)
        counts.append(operations.calls)
    assert (counts[1] - counts[0]).total() <= ceiling, counts[1] - counts[0]


@pytest.mark.parametrize(
    ("rule", "draft", "batch", "operations"),
    [
        (Exact(), "draft", 1, 48),
        (Exact(), "draft", 4, 62),
        (PCG(table(97, "windows")), "draft", 1, 79),
        (PCG(table(97, "windows")), "draft", 4, 98),
        (Coupling(table(97, "windows")), "draft", 1, 66),
        (Coupling(table(97, "windows")), "draft", 4, 94),
        (Exact(), "eagle", 1, 38),
    ],
    ids=["exact", "exact of 4", "pcg", "pcg of 4", "coupling", "coupling of 4", "eagle"],
)
def test_operations_and_waits_a_round(
    rule: Rule, draft: str, batch: int, operations: int, models: dict[str, TokenLM], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rounds() -> int:
        texts, clock = TEXTS[:batch], Clock(torch.device("cpu"))
        speculative_decode(
            models["target"],
            models[draft],
            rule,
            Batch(
                [Prompt(Utterance(text, text), torch.arange(12)) for text in texts],
                Sampling(),
                40,
                Randomness(0, as_keys(texts, torch.device("cpu"))),
            ),
            gamma=GAMMA,
            clock=clock,
        )
        return clock.passes["rule"]

    rounds()  # what is derived once
    with Operations() as launched:
        count = rounds()
    if library() is not None:  # else passes and draws are torch's, with many more
        assert launched.calls.total() / count <= operations, (launched.calls.total() / count, launched.calls)
    # as on a GPU, where nobody may look
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    with Waits(on_device(models, rule)) as waited:
        assert rounds() == count
    assert waited.places == {"decoding/rows.py:commit": count}
