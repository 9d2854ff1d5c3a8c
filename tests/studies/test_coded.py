"""The offline study and a draft's training on codes alone equal what the same speech gives through the codec."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import torch
from hydra import compose, initialize_config_dir

from pcg.codecs.bundled import BundledCodec
from pcg.command import cli
from pcg.config.build import build
from pcg.config.validate import ConfigError
from pcg.data.bundled import Bundled
from pcg.models.phonemes import Phonemes
from pcg.results import predictions
from pcg.runner import movers
from pcg.studies import offline, plots
from pcg.training.sequences import samples

COUNT = 2


@pytest.fixture(scope="module")
def coded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first of the bundled utterances as codes."""
    codec, rows = BundledCodec("bundled:codec"), []
    for each in Bundled(limit=COUNT):
        voice, speech = (codec.encode([load()])[0].tolist() for load in (each.load_prompt, each.load_reference))
        rows.append({"id": each.id, "text": each.text, "says": each.prompt_text, "voice": voice, "codes": speech})
    file = tmp_path_factory.mktemp("coded") / "speech.parquet"
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), file)
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "cache")
    monkeypatch.setattr(plots, "draw_offline", lambda points, folder: [])
    datasets.disable_progress_bars()


def composed(name: str, *overrides: str) -> dict:
    with initialize_config_dir(cli.CONF, version_base="1.3"):
        return cli.plain(compose(name, list(overrides)))


def of(coded: Path, prefix: str = "dataset") -> list[str]:
    columns = {"path": coded, "id": "id", "prompt_text": "says", "prompt_codes": "voice"}
    return [f"{prefix}.{key}={value}" for key, value in columns.items()]


def test_the_offline_study_needs_no_codec_where_speech_is_coded(
    coded: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(movers, "CONTEXTS", 1)  # the codec decodes every token once and not eight times: 50 s less
    asked = ["only=[exact,pcg]", "thetas=[0.8]", f"dataset.limit={COUNT}", "threads=1", "device=cpu"]
    found = []
    for study, parts in (("audio", []), ("codes", ["codec=none", "dataset=tokens", *of(coded)])):
        config = composed("offline", *asked, *parts, f"study={study}", f"paths.outputs={tmp_path}")
        points = json.loads((offline.study(config) / predictions.NAME).read_text())["points"]
        found.append([(point["name"], point["alpha"], point["tau"], point["kl"]) for point in points])
    assert found[0] == found[1]


def test_what_needs_a_codec_says_so(coded: Path, tmp_path: Path) -> None:
    coded_parts = ["codec=none", "dataset=tokens", *of(coded)]
    config = composed("offline", *coded_parts, "only=[pcg]", "thetas=[0.8]", "rules.pcg.groups.source=codec",
                      f"paths.outputs={tmp_path}", "threads=1", "device=cpu")  # fmt: skip
    with pytest.raises(ConfigError, match="there is no codec"):
        offline.study(config)


def test_recorded_speech_becomes_a_drafts_labels(coded: Path, tmp_path: Path) -> None:
    config = composed("train", "trainer=recorded", *of(coded, "trainer.dataset"), "trainer.heldout=1",
                      f"trainer.out={tmp_path / 'out'}", "trainer.shard_size=1")  # fmt: skip
    build(config["trainer"]).run()
    text, codec = Phonemes("bundled:target"), BundledCodec("bundled:codec")
    for split, each in zip(("heldout", "train"), Bundled(limit=COUNT), strict=True):
        voice, speech = (codec.encode([load()])[0] for load in (each.load_prompt, each.load_reference))
        wanted = torch.cat([text.prompt(each, voice), text.speech_ids[speech], text.speech_ids[-1:]])
        [sequence] = samples(str(tmp_path / "out"), split)(random.Random(0))
        assert sequence.ids == wanted.tolist()
    with pytest.raises(ValueError, match="already has shards"):
        build(config["trainer"]).run()
    short = {**config["trainer"], "out": str(tmp_path / "short"), "max_length": 10}
    with pytest.raises(ValueError, match="has 0 usable sequences"):
        build(short).run()
