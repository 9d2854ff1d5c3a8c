"""What a run reads, as digests of all of it: a model of which one row was changed, or a text that was mended, is
another one under the same name, whatever the times and sizes of files say."""

from __future__ import annotations

import contextlib
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pcg import digest
from pcg.models import hub
from pcg.models.checkpoint import BUNDLED, resolve_folder
from pcg.types import Audio, Input, Utterance

log = logging.getLogger("pcg")
_PATHS = ("path", "folder", "voice")
_READ_FROM = (*_PATHS, "prompt", "corpus", "codec", "tokens", "start", "target")  # and what stages of training read
# Of a model's folder: weights (of a metric's models pickles too), config, tokens.
_READ = frozenset({".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".tiktoken", ".vocab"})


def fingerprints(run: Mapping[str, Any]) -> dict[str, str]:
    """By dotted key, ten hexadecimal digits of the content at each path of a config; a dataset's are ``of_utterances``.

    A file counts, and of a folder what models read; of a hub model the commit that is in the cache. Folders without
    any of it and what is not there are left out.
    """
    return {key: found for key, path in _paths(_models(run), "") if (found := _content(path)) is not None}


def inputs(run: Mapping[str, Any]) -> Iterator[Input]:
    """What lies at the paths of a config that has its fingerprints; the dataset is none of it.

    What is no longer what the run read is left out, and a warning names it.
    """
    places: dict[str, list[tuple[str, str]]] = {}
    for key, path in _paths(_models(run), ""):
        told = run["fingerprints"].get(key)
        if told is not None and _content(path) != told:
            log.warning("%s=%s is no longer what the run read, and is not kept as an artifact", key, path)
        elif told is not None:
            places.setdefault(told, []).append((key, path))
    for told, named in places.items():
        path, keys = named[0][1], tuple(key for key, _ in named)
        if path.startswith(BUNDLED) or hub.is_hub_id(path):
            yield Input("checkpoint", told, keys, source=path)
        else:
            yield Input("checkpoint", told, keys, {file.name: file for file in _files_at(resolve_folder(path))})


def fetch_described(run: Mapping[str, Any]) -> None:
    """Bring what describes each hub model of a config into the cache: its commit is part of the run's identity, which
    is asked for before weights are. One that is not to be had is met when it is loaded, with the run's name to it."""
    for _, path in _paths(_models(run), ""):
        if hub.is_hub_id(path) and hub.revision(path) is None:
            with contextlib.suppress(FileNotFoundError):
                hub.about(path)


def of_utterances(utterances: Iterable[Utterance]) -> str:
    """Ten hexadecimal digits of ids, texts, speakers and recordings, which are not decoded where they have bytes.

    Raises:
        ValueError: two utterances have the same id, by which random numbers and files go.
    """
    found = hashlib.blake2b(digest_size=5)
    heard: dict[Callable[[], Audio] | None, bytes] = {None: b""}  # a voice that many share is read once
    known: set[str] = set()
    for each in utterances:
        if each.id in known:
            raise ValueError(f"dataset: two utterances are called {each.id!r}; each needs an id of its own")
        known.add(each.id)
        for load in (each.load_prompt, each.load_reference):
            if load not in heard:
                heard[load] = _recorded(load)
        sounds = (heard[each.load_prompt], heard[each.load_reference])
        found.update(repr((each.id, each.text, each.speaker, each.prompt_text, sounds)).encode())
        for codes in (load() for load in (each.load_prompt_codes, each.load_codes, each.load_voice) if load):
            found.update(repr(len(codes)).encode() + codes.tobytes())
    return found.hexdigest()


def described(node: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key every value of a config; of a place that is here the digest of all that lies there instead."""
    found: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": item for inner, item in described(value).items()}
        elif isinstance(value, str) and key in _READ_FROM:
            found[key] = _lying_at(value) or value
        else:
            found[key] = value
    return found


def _lying_at(path: str) -> str | None:
    """Digest of a file, or of all visible files of a folder; of a hub model the commit; None where nothing is here."""
    if path.startswith(BUNDLED) or hub.is_hub_id(path):
        return _content(path)
    place = Path(path).expanduser()
    files = sorted(place.rglob("*")) if place.is_dir() else [place]
    told = [
        (str(file.relative_to(place)), _of(file))
        for file in files
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(place).parts)
    ]
    return hashlib.blake2b(repr(told).encode(), digest_size=5).hexdigest() if told else None


def state(node: Mapping[str, Any]) -> str:
    """Changes whenever a file changes at a path that a node, or a node inside it, names; nothing is read for it."""
    found = hashlib.blake2b(digest_size=8)
    for value in node.values():
        if isinstance(value, Mapping):
            found.update(state(value).encode())
        elif isinstance(value, str) and (place := Path(value).expanduser()).exists():
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                found.update(repr(digest.stamp(file) if file.exists() else file).encode())
    return found.hexdigest()


def _models(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "dataset"}


def _recorded(load: Any) -> bytes:
    """Digest of a recording's bytes, or where it does not give them of its samples."""
    if hasattr(load, "read"):
        return hashlib.blake2b(load.read(), digest_size=16).digest()
    audio: Audio = load()
    return hashlib.blake2b(repr(audio.sample_rate).encode() + audio.samples.tobytes(), digest_size=16).digest()


def _paths(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _paths(value, f"{prefix}{key}.")
        elif key in _PATHS and isinstance(value, str):
            yield prefix + key, value


def _content(path: str) -> str | None:
    if hub.is_hub_id(path):
        commit = hub.revision(path)
        return None if commit is None else commit[:10]
    place = resolve_folder(path)
    files = _files_at(place)
    if not files:
        return None
    found = hashlib.blake2b(digest_size=5)
    for file in files:
        found.update(file.name.encode() if place.is_dir() else b"")
        found.update(_of(file).encode())
    return found.hexdigest()


def _files_at(place: Path) -> list[Path]:
    """A file, or what models read of a folder; of weights pickles only where there are no others, as SNAC's."""
    if place.is_file():
        return [place]
    there = sorted(place.glob("[!.]*"))
    read = {*_READ, ".bin"} if all(file.suffix != ".safetensors" for file in there) else _READ
    return [file for file in there if file.suffix in read]


def _of(file: Path) -> str:
    """Of weights by tensors, as ``Checkpoint.fingerprint`` asks too, so that they are read once; else of all bytes."""
    if file.suffix == ".safetensors":
        with contextlib.suppress(ValueError):  # a broken one is named by who loads it
            return repr(sorted(digest.of_tensors(file).items()))
    return digest.of_file(file)
