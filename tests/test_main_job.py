"""The main job end to end on a random pair and an untrained codec: everything but the figures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pcg.codecs.bundled import CodecNet, save_codec
from tests.fakes import make_bundled_folder
from tests.warm import start

ROOT = Path(__file__).parents[1]
PROGRAM = ROOT / "experiments" / "run.py"
MEL = {"sample_rate": 16_000, "hop": 160, "bands": 80}
NET = {"levels": [4, 4, 6], "encoder_width": 16, "encoder_blocks": 1, "decoder_width": 16, "decoder_blocks": 1}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    make_bundled_folder(folder / "target", seed=0)
    make_bundled_folder(folder / "draft", seed=1, layers=1)
    torch.manual_seed(0)
    save_codec(folder / "codec", CodecNet(bands=80, **NET), MEL, NET)
    return folder


@pytest.fixture(scope="module")
def choices(pair: Path) -> Path:
    """A --config-dir with the random pair as choices of their own, as a user would add theirs."""
    folder = pair / "conf"
    for group, name in (("target", "target"), ("draft", "draft"), ("codec", "codec")):
        (folder / group).mkdir(parents=True)
        (folder / group / "random.yaml").write_text(f"defaults: [bundled, _self_]\npath: {pair / name}\n")
    return folder


def line(choices: Path, outputs: Path, *arguments: str) -> list[str]:
    return [
        "--config-dir", str(choices), *arguments, f"paths.outputs={outputs}", "target=random", "codec=random",
        "decoding.max_tokens=40", "dataset.limit=2", "metrics=none",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_main_job(choices: Path, tmp_path: Path) -> None:
    arguments = ("-m", "experiment=bundled_rules", "draft=none,random")
    done = subprocess.run(
        [sys.executable, "experiments/run.py", *line(choices, tmp_path, *arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=600, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    study = tmp_path / "bundled_rules"
    results = [json.loads(path.read_text()) for path in study.glob("*/result.json")]
    assert len(results) == 9  # of 16 points
    for result in results:
        assert result["label"] in done.stdout
        assert list((study / result["run_id"] / "wandb").glob("offline-run-*"))
        assert len(list((study / result["run_id"] / "audio").glob("*.wav"))) == 2
    assert (study / "report" / "time_parts.svg").exists()
    asked = line(choices, tmp_path, "study=bundled_rules", "grouping=exact", "decoding.gamma=2", "draft=random")
    again = start(PROGRAM, asked, ROOT)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already done") == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_bad_command_line_is_explained_without_a_traceback(choices: Path, tmp_path: Path) -> None:
    done = start(PROGRAM, line(choices, tmp_path, "grouping.thta=0.4", "decoding.gamma=0", "draft=bundeld"), ROOT)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    for words in ("did you mean 'grouping.theta'", "decoding.gamma=0: 1 to 1,000", "did you mean 'bundled'"):
        assert words in done.stderr
