"""What pcg/command/hydra_loader.py takes from Hydra's private modules: each test says what breaks where it is gone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose
from hydra._internal import config_repository
from hydra.core.config_loader import ConfigLoader
from hydra.types import RunMode

from pcg.command.cli import CONF
from pcg.command.hydra_loader import arguments_of, loader_of


@pytest.fixture
def loader() -> Iterator[ConfigLoader]:
    with loader_of(CONF, None) as loader:
        yield loader


def test_a_command_line_is_parsed_as_hydra_parses_it() -> None:
    """Else overrides are not checked, or checked for a run that is a sweep."""
    parsed = arguments_of(["seed=1,2", "study=x", "-m", "--config-dir", "mine"])
    assert (parsed.multirun, parsed.config_dir, parsed.overrides) == (True, "mine", ["seed=1,2", "study=x"])
    asked = arguments_of([])
    flags = (asked.help, asked.hydra_help, asked.info, asked.shell_completion, asked.experimental_rerun)
    assert not any(flags)


def test_a_loader_knows_the_choices_of_a_group(loader: ConfigLoader) -> None:
    """Else a wrong choice is not named with the nearest right one."""
    assert {"exact", "pcg"} <= set(loader.get_group_options("grouping"))
    assert "decoding" in loader.list_groups("")


def test_a_config_is_composed_with_its_hydra_node(loader: ConfigLoader) -> None:
    """Else how a sweep is launched is not checked."""
    config = loader.load_configuration("run", ["seed=1,2"], RunMode.MULTIRUN, validate_sweep_overrides=False)
    assert config.hydra.sweeper._target_


def test_the_users_folder_has_choices_too(tmp_path: Path) -> None:
    """Else a choice of ``--config-dir`` is refused as unknown."""
    (tmp_path / "grouping").mkdir()
    (tmp_path / "grouping" / "mine.yaml").write_text("_target_: pcg.acceptance.ssd.SSD\nbeta: 0.7\n")
    with loader_of(CONF, str(tmp_path)) as loader:
        assert "mine" in loader.get_group_options("grouping")
        assert compose("run", ["grouping=mine"]).grouping.beta == 0.7


def test_each_file_is_read_once_for_many_compositions(loader: ConfigLoader, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a check of a sweep takes 1.6 times as long."""
    read: list[str] = []
    plain = config_repository.ConfigRepository.load_config

    def counted(self: config_repository.ConfigRepository, config_path: str) -> object:
        read.append(config_path)
        return plain(self, config_path)

    monkeypatch.setattr(config_repository.ConfigRepository, "load_config", counted)
    for seed in range(3):
        assert compose("run", [f"seed={seed}"]).seed == seed
    assert read
    assert len(read) == len(set(read))
