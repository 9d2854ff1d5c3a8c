"""What runs are made of, built once a process: the runs of a sweep share what they have in common, models above all."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch

from pcg.config import fingerprint
from pcg.config.build import build
from pcg.config.run import Run
from pcg.config.settings import Node
from pcg.config.validate import ConfigError
from pcg.interfaces import Codec, Dataset, Metric

T = TypeVar("T")


class Kept:
    """Objects by role (target, draft, codec, ...), one each.

    What no role holds any more is let go before the next is built, so that two models never lie in memory where one is
    asked for. What has a ``close`` is closed then, as an engine, whose processes would otherwise stay until it is
    collected.
    """

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._objects: dict[str, Any] = {}

    def get(self, role: str, key: Any, make: Callable[[], T], holders: tuple[str, ...] = ()) -> T:
        """The object that ``make`` makes, or the one made before for an equal ``key`` (plain values).

        Args:
            holders: roles whose objects may hold on to this one, and go when it does.
        """
        name = json.dumps(key, sort_keys=True)
        if self._keys.get(role) != name:
            self.drop(*holders)
        self._keys[role] = name
        self._let_go()
        if name not in self._objects:
            self._objects[name] = make()
        return self._objects[name]

    def clear(self) -> None:
        self.drop(*list(self._keys))

    def drop(self, *roles: str) -> None:
        for role in roles:
            self._keys.pop(role, None)
        self._let_go()

    def _let_go(self) -> None:
        gone = [made for held, made in self._objects.items() if held not in self._keys.values()]
        self._objects = {held: made for held, made in self._objects.items() if held in self._keys.values()}
        for made in gone:
            getattr(made, "close", lambda: None)()


kept = Kept()


def as_it_lies(node: Node | None) -> list[Any]:
    """What a part is kept under: its config, and the state of the files that it names, which may be replaced."""
    return [node, fingerprint.state(node or {})]


def load_dataset(node: Node) -> Dataset:
    return kept.get("dataset", as_it_lies(node), lambda: build(node))


def load_codec(run: Run) -> Codec | None:
    node = run.codec
    if node is None:
        return None
    return kept.get("codec", [as_it_lies(node), str(run.device)], lambda: build(node, device=run.device))


def load_metrics(nodes: Mapping[str, Node], heard: bool = True) -> dict[str, Metric]:
    """Metrics by name.

    Args:
        heard: whether there will be audio to score. What a metric must fetch is then fetched now, since a run of hours
            should not fail at its first score. Without audio metrics only tell which figures a run lacks.
    """
    metrics: dict[str, Metric] = {
        name: kept.get(f"metrics.{name}", [name, as_it_lies(node)], lambda node=node: build(node))  # type: ignore[misc]
        for name, node in nodes.items()
    }
    for metric in metrics.values() if heard else ():
        getattr(metric, "prepare", lambda: None)()
    return metrics


def metrics_of(run: Run) -> dict[str, Metric]:
    return load_metrics(run.metrics, heard=run.codec is not None)


def with_dataset(run: Run) -> Run:
    """The run with the fingerprint of what its dataset holds, which is part of its identity.

    Raises:
        ValueError: the dataset cannot be opened, or two of its utterances have the same id.
    """
    key = ["utterances", as_it_lies(run.dataset)]
    made = kept.get("utterances", key, lambda: fingerprint.of_utterances(load_dataset(run.dataset)))
    return run.with_fingerprints(dataset=made)


def check_voices(run: Run) -> None:
    """Raises ConfigError where voice prompts are audio and there is no codec to encode them."""
    if run.codec is not None:
        return
    utterances = list(load_dataset(run.dataset))
    spoken = [each.id for each in utterances if each.load_prompt is not None and each.load_prompt_codes is None]
    if spoken:
        raise ConfigError(
            [
                f"codec=none: the voice prompts of {len(spoken)} of {len(utterances)} utterances are audio, the first "
                f"that of {spoken[0]!r}: choose a codec, or texts without a voice (dataset=texts) or with a coded one "
                "(dataset=tokens)"
            ]
        )


def release_models() -> None:
    """Let go of the models, so that what is loaded next has their memory."""
    kept.drop("target", "draft", "codec", "engine", "graphs", "movers", "groups")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
