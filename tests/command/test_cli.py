"""Every mistake on a command line is named at once, with what is allowed and what was probably meant."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import OmegaConf

from pcg.command import cli
from pcg.command.cli import check_command_line
from pcg.command.hydra_loader import loader_of
from pcg.config.validate import ConfigError


def problems(*arguments: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_command_line("run", arguments)
    return caught.value.problems


def test_a_good_command_line_passes() -> None:
    check_command_line("run", ["grouping=pcg", "grouping.theta=0.45", "dataset.limit=2", "draft=none"])
    check_command_line("run", ["-m", "grouping=exact,pcg", "grouping.theta=0.3,0.4", "grouping/groups=cosine"][:-1])
    check_command_line("run", ["grouping/groups=knn", "grouping.groups.k=4", "~metrics.mos"])


def test_all_is_reported_at_once() -> None:
    found = problems(
        "grouping.thta=0.4", "gama=3", "decoding.top_p=1.5", "decoding.batch_size=two", "seed=-1", "device=gpu",
        "logger.mode=ofline", "grouping.residual=both", "grouping.groups.theta=1.5", "draft=bundeld", "study=a/b",
    )  # fmt: skip
    for start in (
        "draft=bundeld: there is no such choice; did you mean 'bundled'? allowed: bundled",
        "grouping.thta: unknown key; did you mean 'grouping.theta'? allowed: grouping._target_, grouping.floor",
        "gama: unknown key; did you mean 'decoding.gamma'?",
        "decoding.top_p=1.5: above 0, at most 1",
        "decoding.batch_size='two': expected a whole number",
        "seed=-1: 0 or more",
        "device='gpu': auto, cpu, cuda or cuda:N",
        "study='a/b': a folder name",
        "logger.mode='ofline': expected one of 'offline', 'online', 'disabled'",
        "grouping.groups.theta=1.5: -1 or more, below 1",
        "grouping.residual='both': one of target, draft",
    ):
        assert any(problem.startswith(start) for problem in found), (start, found)
    assert len(found) == 11


def test_a_sweep_is_checked_at_every_value_before_it_starts() -> None:
    found = problems("-m", "grouping=exact,pcg", "grouping.theta=0.3,2.5", "decoding.gamma=0,4")
    assert found[0].startswith("decoding.gamma=0")
    assert any("theta=2.5" in problem for problem in found)
    assert len(found) == 2


def test_several_values_without_m() -> None:
    assert problems("decoding.gamma=2,4") == ["decoding.gamma=2,4: several values make a sweep; add -m"]


def test_what_is_no_override() -> None:
    assert "'theta' is no override (key=value)" in problems("theta")[0]


def test_a_missing_value_is_named() -> None:
    assert "path" in problems("dataset=texts")[0]


@pytest.mark.parametrize(
    "name", ["os.system", "pcg.results.environment.subprocess", "pcg.runner.run.Path", "pcg.no.Such"]
)
def test_only_what_is_pcgs_own_is_built(name: str) -> None:
    assert problems(f"logger._target_={name}")[0].startswith("logger: _target_")


def test_what_is_read_once_is_read_rightly(tmp_path: Path) -> None:
    """Compositions of one check do not touch each other, and one with a search path of its own has its own files."""
    (tmp_path / "grouping").mkdir()
    shutil.copy(Path(cli.CONF) / "grouping" / "topk.yaml", tmp_path / "grouping" / "mine.yaml")
    with loader_of(cli.CONF, None) as loader:

        def composed(*overrides: str) -> Any:
            config = loader.load_configuration("run", list(overrides), RunMode.RUN)
            return OmegaConf.to_container(config, resolve=False)

        plain = composed("grouping=exact")
        elsewhere = composed("grouping=mine", f"hydra.searchpath=[file://{tmp_path}]", "grouping.k=7")
        assert elsewhere["grouping"]["k"] == 7
        assert composed("grouping=exact") == plain
        assert composed("grouping=topk")["grouping"]["k"] != 7
        with pytest.raises(HydraException, match="mine"):
            composed("grouping=mine")
