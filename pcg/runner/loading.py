"""Builds models, codecs, datasets and metrics once a process, so that the runs of a sweep share them."""

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

    An object that no role has any more is released before the next is built, so that memory never holds two models for
    one role. If it has a ``close`` that is called: an engine ends its processes.
    """

    def __init__(self) -> None:
        self._keys: dict[str, str] = {}
        self._objects: dict[str, Any] = {}

    def get(self, role: str, key: Any, make: Callable[[], T], holders: tuple[str, ...] = ()) -> T:
        """The object made for this key (plain values); ``make`` makes it if the role's object has another key.

        Args:
            holders: roles whose objects may refer to this one; they are released with it.
        """
        name = json.dumps(key, sort_keys=True)
        if self._keys.get(role) != name:
            self.drop(*holders)
        self._keys[role] = name
        self._release()
        if name not in self._objects:
            self._objects[name] = make()
        return self._objects[name]

    def clear(self) -> None:
        self.drop(*list(self._keys))

    def drop(self, *roles: str) -> None:
        for role in roles:
            self._keys.pop(role, None)
        self._release()

    def _release(self) -> None:
        for name in self._objects.keys() - set(self._keys.values()):
            getattr(self._objects.pop(name), "close", lambda: None)()


kept = Kept()


def versioned(node: Node | None) -> list[Any]:
    """The key of an object: its config, and the state of the files at its paths, which may be replaced meanwhile."""
    return [node, fingerprint.state(node or {})]


def load_dataset(node: Node) -> Dataset:
    return kept.get("dataset", versioned(node), lambda: build(node))


def load_codec(run: Run) -> Codec | None:
    node = run.codec
    if node is None:
        return None
    return kept.get("codec", [versioned(node), str(run.device)], lambda: build(node, device=run.device))


def load_metrics(nodes: Mapping[str, Node], will_score: bool = True) -> dict[str, Metric]:
    """Metrics by name.

    Args:
        will_score: whether there will be audio to score. If so each metric fetches what it needs now, so that a run of
            hours does not fail at its first score. Without audio metrics only declare which figures a run lacks.
    """
    metrics: dict[str, Metric] = {
        name: kept.get(f"metrics.{name}", [name, versioned(node)], lambda node=node: build(node))  # type: ignore[misc]
        for name, node in nodes.items()
    }
    for metric in metrics.values() if will_score else ():
        getattr(metric, "prepare", lambda: None)()
    return metrics


def metrics_of(run: Run) -> dict[str, Metric]:
    return load_metrics(run.metrics, will_score=run.codec is not None)


def with_dataset(run: Run) -> Run:
    """The run with the fingerprint of its dataset's content, which is part of its identity.

    Raises:
        ValueError: the dataset cannot be opened, or two of its utterances have the same id.
    """
    key = ["utterances", versioned(run.dataset)]
    fingerprint_of = kept.get("utterances", key, lambda: fingerprint.of_utterances(load_dataset(run.dataset)))
    return run.with_fingerprints(dataset=fingerprint_of)


def check_voices(run: Run) -> None:
    """Raise a ConfigError where voice prompts are audio and there is no codec to encode them."""
    if run.codec is not None:
        return
    utterances = list(load_dataset(run.dataset))
    with_audio = [
        utterance.id
        for utterance in utterances
        if utterance.load_prompt is not None and utterance.load_prompt_codes is None
    ]
    if with_audio:
        raise ConfigError(
            [
                f"codec=none: the voice prompts of {len(with_audio)} of {len(utterances)} utterances are audio, the "
                f"first that of {with_audio[0]!r}: choose a codec, texts without a voice (dataset=texts) or coded "
                "voices (dataset=tokens)"
            ]
        )


def release_models() -> None:
    """Release the models, so that what is loaded next has their memory."""
    kept.drop("target", "draft", "codec", "engine", "graphs", "movers", "groups")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
