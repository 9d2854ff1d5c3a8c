"""Hydra's own command line parser and config loader, to check a command line before Hydra runs it.

Hydra's public API composes one config (``hydra.compose``). It cannot parse a command line, list the choices in the
folder of ``--config-dir``, or read each YAML once for all the compositions of a check, which then takes 1.6 times as
long. So this file, and no other, imports private modules. Where another version of Hydra has changed them,
tests/command/test_hydra_loader.py fails and says what for.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import CachingConfigRepository
from hydra._internal.hydra import Hydra
from hydra._internal.utils import create_config_search_path, get_args_parser
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import ConfigSearchPath, SearchPathQuery
from hydra.core.global_hydra import GlobalHydra


def arguments_of(command_line: Sequence[str]) -> argparse.Namespace:
    """``overrides``, ``multirun``, ``config_dir`` and Hydra's other flags; ends the program where Hydra would."""
    return get_args_parser().parse_args(list(command_line))


@contextmanager
def loader_of(conf: str, config_dir: str | None) -> Iterator[ConfigLoader]:
    """A loader of a folder of configs and of the one given by ``--config-dir``, set up as Hydra will set it up.

    ``hydra.compose`` uses it too as long as the context lasts.
    """
    search_path = create_config_search_path(conf)
    if config_dir is not None:
        place = f"file://{Path(config_dir).resolve()}"
        search_path.prepend("command-line", place, SearchPathQuery(provider="schema"))
    version.setbase("1.3")
    try:
        loader = Hydra.create_main_hydra2("check", search_path).config_loader
        assert isinstance(loader, ConfigLoaderImpl)
        loader.repository = _ReadOnce(loader.repository)  # type: ignore[assignment]  # all that it asks for is there
        yield loader
    finally:
        GlobalHydra.instance().clear()


class _ReadOnce(CachingConfigRepository):
    """Reads each YAML once for all compositions of a check; Hydra's own repository is copied and read for each."""

    def __deepcopy__(self, memo: object) -> _ReadOnce:
        return copy.copy(self)

    def initialize_sources(self, config_search_path: ConfigSearchPath) -> None:
        """A composition with another search path reads other files."""
        self.delegate, self.cache = copy.deepcopy(self.delegate), {}
        super().initialize_sources(config_search_path)
