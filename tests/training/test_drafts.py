"""Drafts in training: what is unrolled is what is decoded, acceptance rises, and the folder belongs to its target."""

from __future__ import annotations

import json
import random
from pathlib import Path
from types import SimpleNamespace

import datasets
import pytest
import torch
from safetensors.torch import load_file, save_file

from pcg.groups.cosine import Cosine
from pcg.models.eagle import EagleLM
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.training.drafts import DraftModule, on_groups
from pcg.training.losses.coarse_lk import CoarseLK
from pcg.training.losses.kl import KL
from pcg.training.losses.lk import LK
from pcg.training.prompts import CorpusPairs
from pcg.training.samples import Samples
from pcg.training.sequences import samples
from pcg.training.students import EagleDraft
from pcg.training.teacher import Teacher
from tests.fakes import make_bundled_folder

READS = [1, 3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return make_bundled_folder(tmp_path_factory.mktemp("target"), layers=3, tied=False, kv_heads=4, width=32)


@pytest.fixture(scope="module")
def teacher(folder) -> Teacher:
    return Teacher(str(folder), Phonemes(str(folder)).speech_ids)


def speech(teacher: Teacher, rows: int, length: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    ids = teacher.speech_ids[torch.randint(0, len(teacher.speech_ids) - 1, (rows, length), generator=generator)]
    ids[:, :4] = torch.tensor([1, 8, 2, 3])
    return ids


def module(teacher, student, loss, depths, heldout=()) -> DraftModule:
    stage = SimpleNamespace(temperature=0.8, depths=depths, share=1.0, steps=50, learning_rate=5e-3, report_every=50)
    return DraftModule(student, teacher, loss, stage, {"near": teacher.groups(Cosine(0.5))}, heldout)


def test_unrolled_depths_are_what_decoding_does(folder, teacher, tmp_path):
    """Depth 1 on true states, 2 and 3 on the draft's own, position by position, in float32 to 1e-4."""
    torch.manual_seed(1)
    maker = EagleDraft(READS)
    student = maker.make(teacher)
    with torch.no_grad():
        for parameter in student.parameters():  # what the folder keeps: float16
            parameter.copy_((parameter + 0.05 * torch.randn(parameter.shape)).half().float())
    maker.save(student, tmp_path / "draft", teacher)
    target = LlamaLM(str(folder), Phonemes(str(folder)), "float32", "cpu", "speech")
    draft = EagleLM(str(tmp_path / "draft"), target, "float32", "cpu")
    ids = speech(teacher, 3, 24)
    teacher.read(ids)
    with torch.no_grad():
        unrolled = [student.logits(state, teacher) for state in student.states(ids, teacher, 3)]
    known = [20, 15, 18]  # rows of different lengths, the last id of each not yet in the target's cache
    prompts = [row[:length] for row, length in zip(ids, known, strict=True)]
    memory = target.prefill(prompts, 40, draft.reads)
    cache = draft.prefill(prompts, 40, target=memory)
    cache.lengths = cache.lengths - 3
    first = draft.step(torch.stack([prompt[-4:] for prompt in prompts]), cache)
    rows = torch.arange(3)
    for back in range(4):
        at = torch.tensor(known) - 4 + back
        torch.testing.assert_close(first[:, back], unrolled[0][rows, at], rtol=0, atol=1e-4)
    for depth in (1, 2):
        at = torch.tensor(known) - 1 + depth
        step = draft.step(ids[rows, at].unsqueeze(1), cache)
        torch.testing.assert_close(step[:, 0], unrolled[depth][rows, at], rtol=0, atol=1e-4)


def test_fifty_steps_of_lk_raise_held_out_acceptance(teacher):
    torch.manual_seed(0)
    student = EagleDraft(READS).make(teacher)
    held = [speech(teacher, 4, 40, seed=100)]
    training = module(teacher, student, LK(), 3, held)
    before = training.held_out()
    both = training.configure_optimizers()
    for step in range(50):
        drafts, target = training.distributions(speech(teacher, 8, 40, seed=step), share=1.0)
        for optimizer in both:
            optimizer.zero_grad()
        sum(LK()(draft, target) for draft in drafts).backward()
        for optimizer in both:
            optimizer.step()
    after = training.held_out()
    assert set(after) == {f"heldout_{name}_{depth}" for name in ("exact", "near") for depth in (1, 2, 3)}
    for depth in (1, 2, 3):
        assert after[f"heldout_exact_{depth}"] > before[f"heldout_exact_{depth}"] + 0.02
        assert after[f"heldout_near_{depth}"] >= after[f"heldout_exact_{depth}"] - 1e-6  # coarse keeps at least as much


def test_a_step_with_budgets_adds_half_the_loss_after_a_cut(teacher, monkeypatch):
    student = EagleDraft(READS, budgets=[16, 24]).make(teacher)
    made = module(teacher, student, LK(), 2)
    ids, asked = speech(teacher, 2, 60), []
    own = made.distributions
    monkeypatch.setattr(made, "distributions", lambda *given: asked.append(given) or own(*given))
    losses = []

    def take_step(module: DraftModule, loss: torch.Tensor, *_: object, **__: object) -> None:
        losses.append(loss.detach())
        module.trained += 1

    monkeypatch.setattr("pcg.training.drafts.take_step", take_step)
    made.training_step(ids, 0)
    (_, _), (_, _, view) = asked
    assert 15 <= view.cut <= 45
    assert view.budget in (16, 24)
    full, sparse = (made._weighted(*own(ids, 1.0, *some))[0] for some in ((), (view,)))
    torch.testing.assert_close(losses[0], full + 0.5 * sparse)
    drafts, target = own(ids, 1.0, view)
    assert len(drafts[0]) == len(target) == 2 * (59 - view.cut)
    budgets = [made._view(60).budget for _ in range(300)]
    assert 150 < budgets.count(16) < 250  # two of three


def test_a_loss_on_groups_gets_them_over_the_targets_table(teacher):
    loss = on_groups(CoarseLK(Cosine(0.5)), teacher)
    assert loss.groups.vocab_size == len(teacher.speech_ids)
    assert on_groups(KL(), teacher) == KL()


def test_a_draft_of_another_target_is_refused(folder, teacher, tmp_path):
    maker = EagleDraft(READS)
    maker.save(maker.make(teacher), tmp_path / "draft", teacher)
    other = make_bundled_folder(tmp_path / "other", layers=3, tied=False, kv_heads=4, width=32, hidden_size=32)
    weights = load_file(other / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    save_file(weights, other / "model.safetensors", metadata={"format": "pt"})
    target = LlamaLM(str(other), Phonemes(str(other)), "float32", "cpu", "speech")
    with pytest.raises(ValueError, match="was trained on the target with fingerprint"):
        EagleLM(str(tmp_path / "draft"), target, "float32", "cpu")


def test_a_training_starts_from_a_head_of_the_same_states(teacher, tmp_path, monkeypatch):
    maker = EagleDraft(READS)
    first = maker.make(teacher)
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.copy_((parameter + 0.05 * torch.randn(parameter.shape)).half().float())
    maker.save(first, tmp_path / "head", teacher)
    monkeypatch.setattr("pcg.training.students.resolve_folder", lambda name: tmp_path / name.removeprefix("bundled:"))
    again = EagleDraft(READS, start="bundled:head").make(teacher)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))
    with pytest.raises(ValueError, match=r"bundled:head reads states \[.*\]: set trainer.student.reads=\["):
        EagleDraft([0, *READS[1:]], start="bundled:head").make(teacher)


def test_a_targets_own_samples_are_labels(tmp_path):
    """Shards of ids that end by themselves, the same at each start, and read back as sequences."""
    folder = make_bundled_folder(tmp_path / "target", audio_tokens=8, width=16)
    target = LlamaLM(str(folder), Phonemes(str(folder)), "float32", "cpu", "speech")
    letters = sorted(json.loads((folder / "tokens.json").read_text())["phonemes"])
    spoken = [{"id": str(i), "speaker": "s", "phonemes": letters[i], "tokens": [i % 8] * 3} for i in range(6)]
    (tmp_path / "tokens").mkdir()
    for split in ("train", "heldout"):
        datasets.Dataset.from_list(spoken).to_parquet(tmp_path / "tokens" / f"{split}-0000.parquet")

    def stage(out: str) -> Samples:
        return Samples(CorpusPairs(str(tmp_path / "tokens")), str(tmp_path / out), target, 5, 2, 3, 2, 60, 1.0, 0)

    stage("a").run()
    first = (tmp_path / "a" / "train-0000.parquet").stat().st_mtime_ns
    (tmp_path / "a" / "train-0001.parquet").unlink()
    stage("a").run()
    stage("b").run()
    assert (tmp_path / "a" / "train-0000.parquet").stat().st_mtime_ns == first
    read = [samples(str(tmp_path / name), "train")(random.Random(0)) for name in ("a", "b")]
    assert read[0] == read[1]
    end = int(target.token_ids(torch.tensor(target.end)))
    for sequence in read[0]:
        assert sequence.ids[0] == 1
        assert sequence.ids[-1] == end
        assert end not in sequence.ids[:-1]
