"""The bench on a random pair: every contestant speaks, and its figures are those of its times."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from pcg.acceptance.pcg import PCG
from pcg.command import cli
from pcg.config.validate import ConfigError
from pcg.groups.table import GroupTable
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.runner.composition import Composition
from pcg.studies import bench, timing
from pcg.studies.timing import Timed
from pcg.types import Utterance
from tests.fakes import make_bundled_folder


@pytest.fixture
def composed(tmp_path: Path) -> Composition:
    models = []
    for name, layers in (("target", 2), ("draft", 1)):
        folder = str(make_bundled_folder(tmp_path / name, layers=layers, seed=layers))
        models.append(LlamaLM(folder, Phonemes(folder), "float32", "cpu", "speech"))
    groups = GroupTable.from_members([[k, (k + 1) % 96] for k in range(96)], 97)
    said = [Utterance("a", "A fox."), Utterance("b", "It is.")]
    return Composition(*models, rule=PCG(groups), codec=None, dataset=said, metrics={}, device=torch.device("cpu"))


def config(*overrides: str) -> dict:
    with initialize_config_dir(cli.CONF, version_base="1.3"):
        return cli.plain(compose("bench", list(overrides)))


@pytest.mark.parametrize("clock", list(bench.CLOCKS))
def test_every_contestant_is_timed(
    clock: str,
    composed: Composition,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(bench, "load", lambda run: composed)
    asked = config(
        f"paths.outputs={tmp_path}", f"clock={clock}", "decoding.max_tokens=12", "decoding.gamma=2", "repeats=1"
    )
    path = bench.compare(asked)
    contestants = json.loads(path.read_text())["contestants"]
    assert list(contestants) == [
        "target alone", "exact", "pcg", "transformers, target alone", "transformers, assisted",
    ]  # fmt: skip
    for figures in contestants.values():
        assert figures["tokens_per_second"] > 0
    for name in ("exact", "pcg"):
        assert sum(contestants[name]["shares"].values()) == pytest.approx(1)
        assert 1 <= contestants[name]["tau"] <= 3
        assert contestants[name]["over_transformers"] > 0
    assert contestants["exact"]["rule_over_exact"] == 1
    shown = capsys.readouterr().out
    assert all(name in shown for name in contestants)


def test_figures_by_hand() -> None:
    alone = Timed(10, {"prefill": 1.0, "draft": 0.0, "target": 9.0, "rule": 0.0, "other": 1.0}, {"target": 10})
    ours = Timed(
        10,
        {"prefill": 1.0, "draft": 1.0, "target": 3.0, "rule": 0.5, "other": 0.5},
        {"target": 4, "draft": 8, "rule": 4},
    )
    times = {"target alone": [alone], "exact": [ours], "transformers, assisted": [Timed(10, {"whole": 12.0})]}
    figures = bench.summary("exact", times)
    assert figures["tokens_per_second"] == pytest.approx(10 / 6)
    assert figures["over_transformers"] == pytest.approx(2)
    assert figures["tau"] == 2.5
    assert figures["speedup"] == pytest.approx(2)  # 1 second a token to .5
    assert figures["ideal_speedup"] == pytest.approx(2.5 * 0.9 / (2 * 0.125 + 0.75))
    assert figures["of_ideal"] == pytest.approx(2 / 2.25)
    assert figures["shares"] == pytest.approx({"draft": 0.2, "target": 0.6, "rule": 0.1, "other": 0.1})
    assert figures["milliseconds"]["target"] == pytest.approx(750)


def test_of_a_batch_tau_is_a_rows() -> None:
    spent = {"prefill": 0.0, "draft": 1.0, "target": 3.0, "rule": 0.0, "other": 0.0}
    alone = Timed(40, {**spent, "target": 8.0}, {"target": 10}, rows=4)
    assert timing.against([Timed(40, spent, {"target": 4, "draft": 8}, rows=4)], [alone])["tau"] == 2.5


def test_all_that_is_wrong_is_named() -> None:
    with pytest.raises(ConfigError) as caught:
        bench.check(config("clock=sun", "repeats=0", "draft=none", "decoding.gamma=0"))
    for word in ("clock='sun'", "repeats=0", "draft", "gamma=0"):
        assert word in str(caught.value)
