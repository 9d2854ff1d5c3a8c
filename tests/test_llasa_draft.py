"""The lines of docs/drafts.md with which a draft for LLaSA is trained, on folders of the real shape."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from pcg.command import cli
from pcg.config.build import build
from pcg.config.validate import check_trainer
from pcg.runner import loading, run
from tests.shapes import make_libritts_parquet, make_llasa, make_xcodec2

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec"),
]


@pytest.fixture(autouse=True)
def _fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    loading.kept.clear()
    with initialize_config_dir(cli.CONF, version_base="1.3"):
        yield


def train(*overrides: str) -> None:
    config = cli.plain(compose("train", [*overrides, "accelerator=cpu", "precision=32-true", "threads=1"]))
    check_trainer(config)
    build(config["trainer"]).run()


def test_samples_then_an_eagle_draft_then_a_run_with_it(tmp_path: Path) -> None:
    make_llasa(tmp_path / "target", tied=False, layers=3, seed=1)
    make_xcodec2(tmp_path / "codec", levels=(4, 4, 4))
    make_libritts_parquet(tmp_path / "libritts")
    target, samples, draft = (tmp_path / name for name in ("target", "samples", "draft"))
    libritts = f"dataset.path={tmp_path / 'libritts'}"
    train(
        "trainer=samples", "trainer/prompts=dataset", f"trainer.out={samples}", "target@trainer.target=llasa_8b",
        f"trainer.target.path={target}", "trainer.target.dtype=float32", f"trainer.prompts.{libritts}",
        f"trainer.prompts.codec.path={tmp_path / 'codec'}", "trainer.prompts.apart=1", "trainer.utterances=4",
        "trainer.heldout=1", "trainer.shard_size=2", "trainer.batch_size=2", "trainer.max_tokens=400",
    )  # fmt: skip
    assert sorted(path.name for path in samples.glob("*.parquet"))
    train(
        "trainer=eagle", "trainer.labels=self", f"trainer.tokens={samples}", f"trainer.target={target}",
        "text@trainer.text=llasa", f"trainer.out={draft}", "trainer.student.reads=[1,2,3]", "trainer.steps=2",
        "trainer.heldout=0", "trainer.report_every=10", "trainer.batch_tokens=400", "trainer.temperature=1.0",
    )  # fmt: skip
    config = cli.plain(
        compose("run", [
            "target=llasa_8b", f"target.path={target}", "target.dtype=float32", "draft=eagle", f"draft.path={draft}",
            "codec=xcodec2", f"codec.path={tmp_path / 'codec'}", "dataset=libritts", libritts, "dataset.limit=1",
            "decoding.max_tokens=12", "metrics=none", "logger=none", "device=cpu", f"paths.outputs={tmp_path}",
        ])
    )  # fmt: skip
    values = run.run_once(config).values
    assert values["counts"]["rounds"] > 0
    assert json.loads((draft / "config.json").read_text())["target_fingerprint"]
