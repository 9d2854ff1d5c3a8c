"""Model folders on the Hugging Face hub: fetched once, then read from its cache."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pcg.files import unwritable

_ABOUT = ["*.json", "*.model", "*.txt", "*.jinja", "LICENSE*"]
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(path: str) -> bool:
    """Whether ``path`` has the form ``owner/name`` and there is no local folder or link of that name."""
    return _ID.fullmatch(path) is not None and not Path(path).exists() and not Path(path).is_symlink()


def fetch(hub_id: str, weights: str = "*.safetensors") -> Path:
    """The folder of a hub model in the local cache; downloads what is missing.

    Args:
        weights: pattern of the files of weights; no other weights are downloaded.

    Raises:
        FileNotFoundError: it is not in the cache and cannot be downloaded; the message says which files to place where.
        ValueError: it has no such weights; the message says how to convert them.
    """
    patterns = [*_ABOUT, weights]
    cached = _cached(hub_id, patterns)
    if cached is not None and _is_whole(cached, weights):
        return cached
    folder = _downloaded(hub_id, patterns, revision(hub_id))
    if not _is_whole(folder, weights):
        raise ValueError(
            f"{hub_id} has no {weights} on the hub, and pickles are not downloaded, since loading them can run code; "
            "if you trust them, convert once: AutoModelForCausalLM.from_pretrained(ID).save_pretrained(FOLDER), and "
            "give FOLDER as the path"
        )
    return folder


def about(hub_id: str, download: bool = True) -> Path | None:
    """The folder of a hub model in the local cache, with config and tokenizer; weights are not downloaded.

    Args:
        download: download files that are missing; if False, None is returned instead.

    Raises:
        FileNotFoundError: as ``fetch``.
    """
    cached = _cached(hub_id, _ABOUT)
    if cached is not None and (cached / "config.json").is_file():
        return cached
    return _downloaded(hub_id, _ABOUT) if download else None


def revision(hub_id: str) -> str | None:
    """The commit of a hub model in the local cache, complete or not, which is the one that is used; None without."""
    folder = _cached(hub_id, _ABOUT)
    return None if folder is None else folder.name


def _cached(hub_id: str, patterns: list[str]) -> Path | None:
    from huggingface_hub import snapshot_download  # takes a second to import

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, local_files_only=True))
    except Exception:  # whatever the reason, it is not in the cache
        return None


def _downloaded(hub_id: str, patterns: list[str], commit: str | None = None) -> Path:
    """``commit``: the one to download; the newest where None."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=patterns, revision=commit))
    except Exception as error:
        if unwritable(error):
            raise OSError(
                f"{hub_id}: the Hugging Face cache cannot be written ({' '.join(str(error).split())}): set HF_HOME to "
                "a writable folder"
            ) from error
        raise FileNotFoundError(_what_to_place(hub_id, error)) from error


def _is_whole(folder: Path, weights: str) -> bool:
    """Whether all weights are there; a cache may hold only the config, or some shards."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return all((folder / shard).is_file() for shard in json.loads(index.read_text())["weight_map"].values())
    return any(folder.glob(weights))


def _what_to_place(hub_id: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    return (
        f"{hub_id} is neither a local folder nor in the Hugging Face cache, and could not be downloaded "
        f"({type(error).__name__}: {reason}). Check the spelling; or download it where there is a network, "
        f"`hf download {hub_id} --local-dir FOLDER` (for a gated model first accept its terms on its page and run "
        "`hf auth login`), copy FOLDER (config.json, tokenizer*.json, *.safetensors) here and give it as the path"
    )
