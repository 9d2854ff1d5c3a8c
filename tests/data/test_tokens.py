"""Texts with codes and no audio."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from pcg.config.fingerprint import of_utterances
from pcg.data.tokens import Tokens
from pcg.decoding.voice import spoken_tokens, voice_tokens
from pcg.types import Utterance

ROWS = [
    {"__key__": f"clip_{i}", "said": f" Text {i}. ", "codes": [i, i + 1, 7], "who": f"s{i % 2}", "before": "Yes.",
     "voice": [3, i]}
    for i in range(5)
]  # fmt: skip
NAMES = {"text": "said", "id": "__key__", "speaker": "who", "prompt_text": "before", "prompt_codes": "voice"}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")
    datasets.disable_progress_bars()


def written(file: Path, rows: list[dict[str, Any]] = ROWS) -> str:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return str(file)


@pytest.fixture(scope="module")
def parquet(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("coded") / "part.parquet")


def test_rows_become_utterances_with_codes(parquet: str) -> None:
    data = Tokens(parquet, **NAMES)
    assert len(data) == len(list(data)) == 5
    one = list(data)[1]
    assert (one.id, one.text, one.speaker, one.prompt_text) == ("clip_1", "Text 1.", "s1", "Yes.")
    assert one.load_reference is one.load_prompt is None
    assert spoken_tokens(one, None, 8).tolist() == [1, 2, 7]
    assert voice_tokens(one, None, 8).tolist() == [3, 1]


def test_a_file_a_folder_and_a_stream_yield_the_same(parquet: str) -> None:
    def seen(data: Tokens) -> list[tuple[Any, ...]]:
        return [(u.id, u.text, u.load_codes().tolist()) for u in data]

    whole = seen(Tokens(parquet, **NAMES))
    assert seen(Tokens(str(Path(parquet).parent), **NAMES)) == whole
    assert seen(Tokens(parquet, **NAMES, limit=3)) == whole[:3]
    assert seen(Tokens(parquet, **NAMES, limit=3, streaming=True)) == whole[:3]
    assert seen(Tokens(parquet, **NAMES, limit=30, streaming=True)) == whole


def test_without_columns_for_them_rows_are_numbered_and_voiceless(parquet: str) -> None:
    one = next(iter(Tokens(parquet, text="said", limit=1)))
    assert (one.id, one.speaker, one.prompt_text) == ("part-0000000", "", "")
    assert voice_tokens(one, None, 8) is None


def test_texts_that_nobody_has_spoken_may_have_a_voice_that_identifies_them(parquet: str) -> None:
    one, other = (list(Tokens(parquet, text="said", codes=None, voice=name)) for name in ("voice", "codes"))
    assert [each.load_voice().tolist() for each in one] == [[3, i] for i in range(5)]
    assert one[0].load_codes is one[0].load_prompt_codes is None
    assert of_utterances(one) != of_utterances(other)


def test_a_column_that_is_not_there_names_the_nearest(parquet: str) -> None:
    with pytest.raises(
        ValueError, match=r"codes=code: no such column; did you mean 'codes'\? there are: __key__, said"
    ):
        list(Tokens(parquet, text="said", codes="code"))
    with pytest.raises(ValueError, match="text=text: no such column"):
        len(Tokens(parquet, limit=2, streaming=True))


def test_codes_beyond_the_vocabulary_are_named(parquet: str) -> None:
    one = list(Tokens(parquet, **NAMES))[4]
    with pytest.raises(ValueError, match=r"'clip_4': its recording holds code 5, but the models have 5 audio tokens"):
        spoken_tokens(one, None, 5)
    with pytest.raises(ValueError, match="its voice holds code 4"):
        voice_tokens(one, None, 4)


def test_arguments_that_cannot_be(parquet: str) -> None:
    with pytest.raises(ValueError, match="streaming=true needs a limit"):
        Tokens(parquet, streaming=True)
    with pytest.raises(ValueError, match="needs both columns"):
        Tokens(parquet, prompt_codes="voice")
    with pytest.raises(FileNotFoundError, match=r"owner/nothing .*cannot be downloaded .*hf download"):
        len(Tokens("owner/nothing"))


def test_other_codes_are_another_run(tmp_path: Path) -> None:
    def identity(codes: list[int], name: str) -> str:
        rows = [{"text": "Yes.", "codes": codes, "id": "a"}]
        return of_utterances(Tokens(written(tmp_path / f"{name}.parquet", rows), id="id"))

    assert identity([1, 2], "a") == identity([1, 2], "b") != identity([1, 3], "c")


def test_audio_without_a_codec_is_told() -> None:
    spoken = Utterance("a", "Yes.", load_reference=lambda: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(ValueError, match="its recording is audio and there is no codec"):
        spoken_tokens(spoken, None, 5)
    with pytest.raises(ValueError, match="has no recording of its text"):
        spoken_tokens(Utterance("a", "Yes.", load_codes=None), None, 5)
    assert voice_tokens(Utterance("a", "b", load_prompt_codes=lambda: np.array([1])), None, 5).tolist() == [1]
