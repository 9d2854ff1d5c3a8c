"""The line that a user of LLaSA types, on folders of the real shape: hub ids replaced by paths, nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
from hydra import compose, initialize_config_dir

from pcg.command import cli
from pcg.config.validate import ConfigError
from pcg.runner import loading, rescore, run
from tests.shapes import (
    REAL_AUDIO,
    REAL_BASE,
    make_libritts_folders,
    make_libritts_parquet,
    make_llasa,
    make_wavlm,
    make_whisper,
    make_xcodec2,
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """64 codes instead of 65,536, so that groups and batches take no time."""
    folder = tmp_path_factory.mktemp("small")
    make_llasa(folder / "target", tied=False, seed=1)
    make_llasa(folder / "draft", layers=1, seed=2)
    make_xcodec2(folder / "codec", levels=(4, 4, 4))
    make_libritts_parquet(folder / "libritts")
    make_whisper(folder / "whisper")
    make_wavlm(folder / "wavlm")
    return folder


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    loading.kept.clear()
    with initialize_config_dir(cli.CONF, version_base="1.3"):
        yield


@pytest.fixture
def job(folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """``job("grouping=exact")`` runs the line with more overrides."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def do(*overrides: str) -> Any:
        metrics = [] if "metrics=none" in overrides else _metrics(folders)
        own_draft = any(item.startswith("draft=") for item in overrides)
        draft = [] if own_draft else [f"draft.path={folders / 'draft'}", "draft.dtype=float32"]
        line = [
            "target=llasa_8b", "draft=llasa_1b", "codec=xcodec2", "dataset=libritts", "grouping=pcg", "metrics=paper",
            "logger=none", f"paths.outputs={tmp_path}", "device=cpu", "dataset.limit=2", "decoding.max_tokens=24",
            "dataset.prompt_seconds=[1,20]", f"target.path={folders / 'target'}",
            "target.dtype=float32", f"codec.path={folders / 'codec'}",
            f"dataset.path={folders / 'libritts'}", *metrics, *draft, *overrides,
        ]  # fmt: skip
        return run.run_once(cli.plain(compose("run", line)))

    return do


def _metrics(folders: Path) -> list[str]:
    return [
        f"metrics.asr.recogniser.path={folders / 'whisper'}", f"metrics.speaker.path={folders / 'wavlm'}",
        "~metrics.mos",  # DistillMOS takes 7.68 s of audio through a real network: its own test does
    ]  # fmt: skip


@pytest.mark.slow
def test_the_line(job: Callable[..., Any], folders: Path, tmp_path: Path) -> None:
    result = job("decoding.batch_size=2", "decoding.repetition_penalty=1.2")
    values = result.values
    assert values["counts"]["utterances"] == 2
    assert values["counts"]["emitted"] > 0
    assert not values["failures"]
    for figure in ("wer", "cer", "speaker_similarity", "baseline_wer"):
        assert values["quality"][figure] is not None
    for file in Path(result.folder).glob("audio/*.wav"):
        assert soundfile.info(file).frames % 320 == 0  # the voice prompt is cut off, whole tokens are left
        assert soundfile.info(file).frames <= 24 * 320
    # the same folder scored again
    line = [f"run={result.folder}", "metrics=paper", "device=cpu", *_metrics(folders), "metrics.asr.suffix=_again"]
    config = cli.plain(compose("score", line))
    rescore.check(config)
    figures = json.loads(rescore.rescore(config).read_text())["quality"]
    assert figures["wer_again"] == values["quality"]["wer"]


@pytest.mark.slow
def test_batches_and_local_folders_give_the_same_tokens(job: Callable[..., Any], tmp_path: Path) -> None:
    local = make_libritts_folders(tmp_path / "LibriTTS" / "test-clean")
    one = job("metrics=none", "grouping=exact", "study=one")
    two = job(
        "metrics=none", "grouping=exact", "decoding.batch_size=2", "study=two", "~dataset.config",
        "~dataset.split", "~dataset.streaming", "dataset._target_=pcg.data.libritts_local.LibriTTSLocal",
        f"dataset.path={local}", "dataset.limit=8",
    )  # fmt: skip
    tokens = [
        {row["utterance"]: row["tokens"] for line in (Path(r.folder) / "batches.jsonl").read_text().splitlines()
         for row in json.loads(line)["rows"]}
        for r in (one, two)
    ]  # fmt: skip
    assert len(tokens[0]) == 2
    assert all(tokens[1][name] == said for name, said in tokens[0].items())


@pytest.mark.slow
def test_the_real_shape(job: Callable[..., Any], tmp_path: Path) -> None:
    """193,800 rows, 65,536 codes, and their lattice of groups."""
    real = tmp_path / "real"
    make_llasa(real / "target", audio_tokens=REAL_AUDIO, base=REAL_BASE, tied=False, seed=1)
    make_xcodec2(real / "codec")
    result = job(
        f"target.path={real / 'target'}", f"draft.path={real / 'target'}", f"codec.path={real / 'codec'}",
        "metrics=none", "grouping/groups=lattice_xcodec2", "dataset.limit=1", "decoding.max_tokens=8",
    )  # fmt: skip
    assert result.values["acceptance"]["alpha"] == 1.0  # the draft is the target
    assert result.values["counts"]["emitted"] == 8


@pytest.mark.slow
def test_other_models_through_the_same_line(job: Callable[..., Any], folders: Path, tmp_path: Path) -> None:
    """transformers' own Llama says what ours says; n-grams draft for it."""
    line = ("metrics=none", "grouping=exact", "dataset.limit=1", "decoding.temperature=0.0")
    ours = job(*line)
    theirs = job(*line, "target=transformers", f"target.path={folders / 'target'}", "draft=ngram")  # fmt: skip
    said = [json.loads((Path(r.folder) / "batches.jsonl").read_text())["rows"][0]["tokens"] for r in (ours, theirs)]
    assert said[0] == said[1]
    assert theirs.values["counts"]["tested"] > 0


def test_models_of_two_families_are_refused(folders: Path, job: Callable[..., Any], tmp_path: Path) -> None:
    make_llasa(tmp_path / "other", layers=1, speech="<|speech_{}|>")
    with pytest.raises(ConfigError, match=r"speech token 0 is <\|speech_0\|> in the draft, <\|s_0\|> in the target"):
        job(f"draft.path={tmp_path / 'other'}", "draft.text.speech='<|speech_{}|>'", "metrics=none")


def test_a_draft_whose_ids_lie_elsewhere_is_taken(folders: Path, job: Callable[..., Any], tmp_path: Path) -> None:
    make_llasa(tmp_path / "other", base=301, layers=1, seed=2)
    line = ("metrics=none", "grouping=exact", "dataset.limit=1", "decoding.temperature=0.0")
    same, other = (job(f"draft.path={path}", *line) for path in (folders / "target", tmp_path / "other"))
    said = [json.loads((Path(r.folder) / "batches.jsonl").read_text())["rows"][0]["tokens"] for r in (same, other)]
    assert said[0] == said[1]
    assert other.values["counts"]["tested"] > 0


def test_a_codec_of_another_size_is_refused(folders: Path, job: Callable[..., Any], tmp_path: Path) -> None:
    make_xcodec2(tmp_path / "other", levels=(4, 4))
    with pytest.raises(ConfigError, match="codec: has 16 tokens, the target speaks 64"):
        job(f"codec.path={tmp_path / 'other'}", "metrics=none")
