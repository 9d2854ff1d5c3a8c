from __future__ import annotations

import random

import numpy as np
import pytest

from pcg.data.bundled import Bundled
from pcg.training.pair.corpus import flac
from pcg.training.pair.heldout import Heldout
from pcg.training.pair.texts import clauses

SPEAKERS = ["s082", "s094", "s100"]


def rows(count: int) -> list[dict]:
    rng, verses = random.Random(0), [c for c in clauses() if 6 <= len(c.split()) <= 16]
    return [
        {
            "id": f"heldout-{i:04d}",
            "text": verses[i] if i % 2 else f"The farmer sold {i} old books last night.",
            "speaker": SPEAKERS[i % 3],
            "seconds": rng.uniform(1.5, 7),
        }
        for i in range(count)
    ]


def stage(seed: int = 0, utterances: int = 30) -> Heldout:
    return Heldout(corpus="", folder="", utterances=utterances, voices=2, seed=seed)


def test_choice_is_balanced_and_within_the_limits():
    spoken = {row["id"]: row for row in rows(300)}
    chosen, prompts = stage().choose(list(spoken.values()))
    verses = set(clauses())
    assert len({row["id"] for row in chosen}) == 30
    assert {row["speaker"] for row in chosen[:3]} == set(SPEAKERS)
    assert sum(row["text"] in verses for row in chosen) == 10
    assert all(3 <= spoken[row["id"]]["seconds"] <= 6 for row in chosen)
    assert all(2 <= spoken[row["id"]]["seconds"] <= 3.2 for row in prompts)
    assert [row["speaker"] for row in prompts] == [s for s in SPEAKERS for _ in range(2)]
    assert not {row["id"] for row in prompts} & {row["id"] for row in chosen}
    assert all(spoken[row["prompt_id"]]["speaker"] == row["speaker"] for row in chosen)
    assert {row["prompt_id"] for row in chosen} == {row["id"] for row in prompts}


def test_choice_depends_on_the_seed_alone():
    spoken = rows(300)
    shuffled = random.Random(1).sample(spoken, len(spoken))
    assert stage().choose(spoken) == stage().choose(shuffled)
    assert stage().choose(spoken) != stage(seed=1).choose(spoken)


def test_more_sentences_are_a_longer_list_of_the_same():
    assert stage(utterances=30).choose(rows(300))[0][:12] == stage(utterances=12).choose(rows(300))[0]


def test_too_few_sentences_name_the_speaker():
    with pytest.raises(ValueError, match="speaker s"):
        stage().choose(rows(30))


def test_files_written_are_the_data_set_and_a_new_corpus_makes_them_anew(tmp_path, monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    corpus, folder = tmp_path / "corpus", tmp_path / "bundled"
    for level in (0.1, 0.2):
        spoken = [row | {"audio": flac(np.full(1600, level, np.float32))} for row in rows(300)]
        datasets.Dataset.from_list(spoken).to_parquet(corpus / "heldout-0000.parquet")
        Heldout(str(corpus), str(folder), utterances=12, voices=2, seed=0).run()
        utterances = list(Bundled(folder=str(folder)))
        assert len(utterances) == 12
        assert {u.speaker for u in utterances[:3]} == set(SPEAKERS)
        for audio in (utterances[0].load_prompt(), utterances[0].load_reference()):
            np.testing.assert_allclose(audio.samples, level, atol=1e-4)
    assert sorted(path.name for path in folder.iterdir()) == ["utterances.parquet", "voices.parquet"]


def test_missing_corpus_is_one_clear_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="make it first"):
        Heldout(str(tmp_path), str(tmp_path), 1, 1, 0).run()
