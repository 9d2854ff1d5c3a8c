"""What a run reads, as digests: a model that was trained further, or a text that was mended, is another one under the
same name."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from pcg.models import hub
from pcg.models.checkpoint import resolve_folder
from pcg.types import Audio, Utterance

_PATHS = ("path", "folder", "voice")
_READ = frozenset({".json", ".safetensors", ".model", ".txt", ".jinja"})  # of a model's folder: weights, config, tokens
_WHOLE = 64 * 2**20  # bytes of a file that are all read; of a larger one as many, in blocks spread over it
_BLOCK = 2**16


def fingerprints(run: Mapping[str, Any]) -> dict[str, str]:
    """By dotted key, ten hexadecimal digits of the content at each path of a config; a dataset's are ``of_utterances``.

    A file counts, and of a folder what models read; of a hub model the commit that is in the cache. Folders without
    any of it and what is not there are left out.
    """
    return {key: found for key, path in _paths(_models(run), "") if (found := _content(path)) is not None}


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
    digest = hashlib.blake2b(digest_size=5)
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
        digest.update(repr((each.id, each.text, each.speaker, each.prompt_text, sounds)).encode())
        for codes in (load() for load in (each.load_prompt_codes, each.load_codes) if load):
            digest.update(repr(len(codes)).encode() + codes.tobytes())
    return digest.hexdigest()


def state(node: Mapping[str, Any]) -> str:
    """Changes whenever a file changes at a path that a node names, as its size and time tell."""
    digest = hashlib.blake2b(digest_size=8)
    for value in node.values():
        if isinstance(value, str) and (place := Path(value).expanduser()).exists():
            for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
                stat = file.stat()
                digest.update(repr((str(file), stat.st_size, stat.st_mtime_ns)).encode())
    return digest.hexdigest()


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
    files = [place] if place.is_file() else sorted(file for file in place.glob("[!.]*") if file.suffix in _READ)
    if not files:
        return None
    digest = hashlib.blake2b(digest_size=5)
    for file in files:
        stat = file.stat()
        digest.update(file.name.encode() if place.is_dir() else b"")
        digest.update(_sampled(file, stat.st_size, stat.st_mtime_ns))
    return digest.hexdigest()


@lru_cache(maxsize=1024)
def _sampled(file: Path, size: int, _changed: int) -> bytes:
    """Digest of a file's size and of blocks spread evenly over it, all of it where it is small."""
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    step = max(_BLOCK, size * _BLOCK // _WHOLE)
    with file.open("rb") as content:
        for start in range(0, size, step):
            content.seek(start)
            digest.update(content.read(_BLOCK))
    return digest.digest()
