"""A draft that keeps a budget of its cache: what it keeps, that it is what it is trained as, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcg.models.budget import CHUNK, kept_entries
from pcg.models.eagle import EagleLM
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.training.eagle import View
from pcg.training.students import EagleDraft, ReadingStudent
from pcg.training.teacher import Teacher
from tests.fakes import make_bundled_folder


def test_the_first_the_last_and_the_chunks_that_meet_the_last_key_are_kept() -> None:
    keys = torch.zeros(2, 44, 4)
    keys[:, -1] = torch.tensor([1.0, 0, 0, 0])
    keys[:, 17, 0] = 5.0  # chunk 2
    keys[:, 30, 0] = -9.0  # chunk 3 looks away
    wanted = [*range(8), *range(16, 24), *range(40, 44)]
    assert kept_entries(keys, 3 * CHUNK).tolist() == wanted
    assert kept_entries(keys, 44).tolist() == list(range(44))
    assert kept_entries(keys, 2 * CHUNK).tolist() == [*range(8), *range(40, 44)]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[LlamaLM, ReadingStudent, Teacher, Path]:
    folder, head = make_bundled_folder(tmp_path_factory.mktemp("target")), tmp_path_factory.mktemp("eagle")
    target = LlamaLM(str(folder), Phonemes(str(folder)), "float32", "cpu", "speech")
    teacher, maker = Teacher(str(folder), target.text.speech_ids), EagleDraft([0, 1, 2], budgets=[16])
    student = maker.make(teacher)
    for parameter in student.parameters():  # float16 loses nothing of these
        parameter.data = parameter.data.half().float()
    maker.save(student, head, teacher)
    return target, student, teacher, head


@pytest.mark.parametrize("layout", ["plain", "native"])
def test_a_draft_with_a_budget_is_what_it_is_trained_as(
    layout: str, pair: tuple[LlamaLM, ReadingStudent, Teacher, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Steps after the prompt, the first on the target's states, then on its own, a roll-back between."""
    from pcg.compiled import library

    if layout == "native" and library() is None:
        pytest.skip("no C compiler here")
    target, student, teacher, head = pair
    monkeypatch.setattr("pcg.models.eagle.choose", lambda *_: layout)
    draft = EagleLM(str(head), target, "float32", "cpu", budget=16)
    ids = torch.randint(0, 90, (1, 52), generator=torch.Generator().manual_seed(2))
    cut = 41  # entries of the prompt: all of its tokens but the last
    teacher.read(ids)
    with torch.no_grad():
        wanted = [student.logits(state, teacher) for state in student.states(ids, teacher, 2, View(cut, 16))]
        whole = student.logits(student.states(ids, teacher, 1)[0], teacher)
    assert not torch.allclose(wanted[0][:, cut:], whole[:, cut:], atol=1e-3)
    torch.testing.assert_close(wanted[0][:, :cut], whole[:, :cut])
    cache = target.prefill([ids[0, : cut + 1]], 64, reads=draft.reads)
    own = draft.prefill([ids[0, : cut + 1]], 64, target=cache)
    assert own.entries.tolist() == [8 + cut % CHUNK]
    assert own.lengths.tolist() == [cut]
    target.step(ids[:, cut:], cache)
    first = draft.step(ids[:, cut : cut + 4], own)
    torch.testing.assert_close(first, wanted[0][:, cut : cut + 4], rtol=1e-3, atol=1e-3)
    own.lengths = own.lengths - 2  # two were rejected
    cache.lengths = torch.tensor([cut + 2])  # where the target has been; what follows reads the draft's own state
    draft.step(ids[:, cut + 2 : cut + 3], own)
    found = draft.step(ids[:, cut + 3 : cut + 4], own)
    torch.testing.assert_close(found, wanted[1][:, cut + 3 : cut + 4], rtol=1e-3, atol=1e-3)


def test_rows_of_a_batch_keep_their_own(pair: tuple[LlamaLM, ReadingStudent, Teacher, Path]) -> None:
    target, _, _, head = pair
    draft = EagleLM(str(head), target, "float32", "cpu", budget=16)
    prompts = [torch.arange(5, 50), torch.arange(9, 20), torch.arange(7, 40)]
    token, found = torch.full((3, 1), 60), []
    for some in ([0, 1, 2], [0], [1], [2]):
        cache = target.prefill([prompts[i] for i in some], 64, reads=draft.reads)
        own = draft.prefill([prompts[i] for i in some], 64, target=cache)
        target.step(token[: len(some)], cache)
        draft.step(token[: len(some)], own)
        if len(some) == 3:
            own.keep(torch.tensor([0, 2]))
            cache.keep(torch.tensor([0, 2]))
            found += list(draft.step(token[:2], own))
        elif some != [1]:
            torch.testing.assert_close(draft.step(token[:1], own)[0], found[some[0] // 2], rtol=1e-4, atol=1e-4)


def test_a_budget_that_is_too_small_is_refused() -> None:
    from hydra import compose, initialize_config_dir

    from pcg.command import cli
    from pcg.config.validate import ConfigError

    with initialize_config_dir(cli.CONF, version_base="1.3"):
        config = cli.plain(compose("run", ["draft=eagle", "draft.budget=8"]))
    with pytest.raises(ConfigError, match=r"draft\.budget=8: 16 or more"):
        cli.check_run(config)
