"""A run, parsed once: what the runner, its workers and the studies are given instead of a config."""

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
    """One run. What is built of it are nodes: None where there is none, no rule without a draft.

    Attributes:
        settings: the whole config, typed.
        values: of the config what decides the figures (``identity.canonical``): recorded in result.json and hashed to
            the run's id.
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
        """Whether one process of this machine decodes at a time: several on a CPU slow each other down, and not all
        passes alike, so that speed-ups that are measured would not be those of one."""
        several = self.settings.devices > 1 and self.device.type == "cpu"
        return several and self.decoding.baseline and self.engine is None

    @property
    def compile(self) -> bool | str:
        """What ``decoding.compile`` comes to: ``auto`` means false where there is no GPU."""
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
    """The run that a resolved config asks for.

    Args:
        fetch: whether what describes a model of the hub is fetched; its commit is part of the run's identity.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    settings = check(config)
    if fetch:
        fetch_described(config)
    return Run(settings, identity.canonical(config))
