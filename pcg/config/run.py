"""A run, parsed once from its config. The runner, its workers and the studies get this object instead of a config."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from pcg.config import identity
from pcg.config.fingerprint import fetch_described
from pcg.config.settings import Decoding, Node, Settings
from pcg.config.validate import check


@dataclass(frozen=True)
class Run:
    """One run. Models, rule, dataset and so on are nodes to build, None where the choice is ``none``; without a draft
    there is no rule.

    Attributes:
        settings: the whole config, typed.
        values: the part that decides the figures (``identity.canonical``). It is recorded in result.json, and the run's
            id is its hash.
    """

    settings: Settings
    values: Mapping[str, Any]

    @property
    def target(self) -> Node:
        return self.values["target"]

    @property
    def draft(self) -> Node | None:
        return self.values["draft"]

    @property
    def grouping(self) -> Node | None:
        return self.values["grouping"]

    @property
    def codec(self) -> Node | None:
        return self.values["codec"] if self.settings.codec else None

    @property
    def dataset(self) -> Node:
        return self.values["dataset"]

    @property
    def metrics(self) -> Mapping[str, Node]:
        return self.values["metrics"]

    @property
    def engine(self) -> Node | None:
        return self.values.get("engine")

    @property
    def decoding(self) -> Decoding:
        return self.settings.decoding

    @property
    def device(self) -> torch.device:
        return torch.device(self.values["device"])

    @property
    def takes_turns(self) -> bool:
        """Whether one process of this machine decodes at a time. Several on a CPU slow each other down, some passes
        more than others, which would change the measured speed-up."""
        several = self.settings.devices > 1 and self.device.type == "cpu"
        return several and self.decoding.baseline and self.engine is None

    @property
    def compile(self) -> bool | str:
        """``decoding.compile`` on the run's device: ``auto`` is false without a GPU."""
        return self.values["decoding"].get("compile", False)

    @property
    def id(self) -> str:
        return identity.run_id(self.values)

    @property
    def label(self) -> str:
        return identity.label(self.values)

    @property
    def method(self) -> str:
        return identity.method(self.values)

    def on(self, device: torch.device) -> Run:
        """The same run on the device of another process."""
        return replace(self, values={**self.values, "device": str(device)})

    def with_fingerprints(self, **more: str) -> Run:
        return replace(self, values={**self.values, "fingerprints": {**self.values["fingerprints"], **more}})


def parse(config: Mapping[str, Any], fetch: bool = False) -> Run:
    """The run of a resolved config.

    Args:
        fetch: whether to fetch config and tokenizer of hub models, whose commits are part of the run's identity.

    Raises:
        ConfigError: it lists everything that is wrong with the config.
    """
    settings = check(config)
    if fetch:
        fetch_described(config)
    return Run(settings, identity.canonical(config))
