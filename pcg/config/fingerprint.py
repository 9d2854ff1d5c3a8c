"""Digests of everything that a run reads. A model in which one row was changed, or a text that was corrected, has
another digest under the same name, whatever times and sizes the files have."""

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
_READ_FROM = (*_PATHS, "prompt", "corpus", "codec", "tokens", "start", "target")  # keys of training stages among them
# Files of a model's folder that count: weights (pickles too, of the models of metrics), config, tokenizer.
_READ = frozenset({".json", ".safetensors", ".bin", ".model", ".txt", ".jinja", ".tiktoken", ".vocab"})


def fingerprints(run: Mapping[str, Any]) -> dict[str, str]:
    """By dotted key, ten hexadecimal digits of the content at each path of a config but the dataset's.

    A dataset has ``of_utterances`` instead. The digest is of a file, of the files of a folder that models read, or the
    commit of a hub model in the cache. Paths without such content are left out.
    """
    digests = {key: _content(path) for key, path in _paths(_models(run), "")}
    return {key: value for key, value in digests.items() if value is not None}


def inputs(run: Mapping[str, Any]) -> Iterator[Input]:
    """The checkpoints at the paths of a config that has its fingerprints, without the dataset's.

    A checkpoint that has changed since the run read it is left out, with a warning.
    """
    by_digest: dict[str, list[tuple[str, str]]] = {}
    for key, path in _paths(_models(run), ""):
        read = run["fingerprints"].get(key)
        if read is not None and _content(path) != read:
            log.warning("%s=%s has changed since the run read it, and is not kept as an artifact", key, path)
        elif read is not None:
            by_digest.setdefault(read, []).append((key, path))
    for read, keys_and_paths in by_digest.items():
        path, keys = keys_and_paths[0][1], tuple(key for key, _ in keys_and_paths)
        if path.startswith(BUNDLED) or hub.is_hub_id(path):
            yield Input("checkpoint", read, keys, source=path)
        else:
            yield Input("checkpoint", read, keys, {file.name: file for file in _files_at(resolve_folder(path))})


def fetch_described(run: Mapping[str, Any]) -> None:
    """Fetch config and tokenizer of each hub model of a config: its commit is part of the run's identity, which is
    needed before the weights are. A model that cannot be fetched is reported when it is loaded."""
    for _, path in _paths(_models(run), ""):
        if hub.is_hub_id(path) and hub.revision(path) is None:
            with contextlib.suppress(FileNotFoundError):
                hub.about(path)


def of_utterances(utterances: Iterable[Utterance]) -> str:
    """Ten hexadecimal digits of ids, texts, speakers and recordings.

    Raises:
        ValueError: two utterances have the same id, which random numbers and file names depend on.
    """
    total = hashlib.blake2b(digest_size=5)
    recordings: dict[Callable[[], Audio] | None, bytes] = {None: b""}  # a voice that many share is read once
    ids: set[str] = set()
    for utterance in utterances:
        if utterance.id in ids:
            raise ValueError(f"dataset: two utterances are called {utterance.id!r}; each needs an id of its own")
        ids.add(utterance.id)
        for load in (utterance.load_prompt, utterance.load_reference):
            if load not in recordings:
                recordings[load] = _digest_of_recording(load)
        sounds = (recordings[utterance.load_prompt], recordings[utterance.load_reference])
        content = (utterance.id, utterance.text, utterance.speaker, utterance.prompt_text, sounds)
        total.update(repr(content).encode())
        loads = (utterance.load_prompt_codes, utterance.load_codes, utterance.load_voice)
        for codes in (load() for load in loads if load):
            total.update(repr(len(codes)).encode() + codes.tobytes())
    return total.hexdigest()


def described(node: Mapping[str, Any]) -> dict[str, Any]:
    """By dotted key every value of a config, with digests in place of the paths that exist."""
    values: dict[str, Any] = {}
    for key, value in node.items():
        if isinstance(value, Mapping):
            values |= {f"{key}.{inner}": item for inner, item in described(value).items()}
        elif isinstance(value, str) and key in _READ_FROM:
            values[key] = _all_content(value) or value
        else:
            values[key] = value
    return values


def _all_content(path: str) -> str | None:
    """Digest of a file or of all visible files below a folder; the commit of a hub model; None where nothing is."""
    if path.startswith(BUNDLED) or hub.is_hub_id(path):
        return _content(path)
    root = Path(path).expanduser()
    files = sorted(root.rglob("*")) if root.is_dir() else [root]
    digests = [
        (str(file.relative_to(root)), _of(file))
        for file in files
        if file.is_file() and not any(name.startswith(".") for name in file.relative_to(root).parts)
    ]
    return hashlib.blake2b(repr(digests).encode(), digest_size=5).hexdigest() if digests else None


def state(node: Mapping[str, Any]) -> str:
    """A digest of the stamps of all files at a node's paths: it changes when a file does, and no file is read for
    it."""
    stamps = hashlib.blake2b(digest_size=8)
    for key, value in node.items():
        if isinstance(value, Mapping):
            stamps.update(state(value).encode())
        elif isinstance(value, str) and key in _READ_FROM and (root := Path(value).expanduser()).exists():
            for file in sorted(root.rglob("*")) if root.is_dir() else [root]:
                stamps.update(repr(digest.stamp(file) if file.exists() else file).encode())
    return stamps.hexdigest()


def _models(run: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in run.items() if key != "dataset"}


def _digest_of_recording(load: Any) -> bytes:
    """Digest of the bytes of a recording's file; of its samples where it has no file."""
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
    root = resolve_folder(path)
    files = _files_at(root)
    if not files:
        return None
    total = hashlib.blake2b(digest_size=5)
    for file in files:
        total.update(file.name.encode() if root.is_dir() else b"")
        total.update(_of(file).encode())
    return total.hexdigest()


def _files_at(root: Path) -> list[Path]:
    """A file, or the files of a folder that models read; pickled weights only where there are no others, as for
    SNAC."""
    if root.is_file():
        return [root]
    visible = sorted(root.glob("[!.]*"))
    read = {*_READ, ".bin"} if all(file.suffix != ".safetensors" for file in visible) else _READ
    return [file for file in visible if file.suffix in read]


def _of(file: Path) -> str:
    """Digest of a file: of weights by tensor, which ``Checkpoint.fingerprint`` reuses; of others of all bytes."""
    if file.suffix == ".safetensors":
        with contextlib.suppress(ValueError):  # loading it will name what is broken
            return repr(sorted(digest.of_tensors(file).items()))
    return digest.of_file(file)
