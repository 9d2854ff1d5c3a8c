"""Model folders on the Hugging Face hub: fetched once, then read from its cache."""

from __future__ import annotations

import json
import re
from pathlib import Path

from pcg.files import unwritable

_ABOUT = ["*.json", "*.model", "*.txt", "*.jinja", "LICENSE*"]
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(path: str) -> bool:
    """Whether ``path`` is written as ``owner/name`` and no such folder or link is here: these always go first."""
    return _ID.fullmatch(path) is not None and not Path(path).exists() and not Path(path).is_symlink()


def fetch(hub_id: str, weights: str = "*.safetensors") -> Path:
    """The folder of a hub model in the local cache, downloaded where it is not there whole.

    Args:
        weights: files that hold them; no others are fetched, pickles least of all.

    Raises:
        FileNotFoundError: it is neither in the cache nor to be had; the message says what to place where.
        ValueError: it has no such weights; the message says how to convert them.
    """
    wanted = [*_ABOUT, weights]
    cached = _cached(hub_id, wanted)
    if cached is not None and _is_whole(cached, weights):
        return cached
    folder = _downloaded(hub_id, wanted, revision(hub_id))
    if not _is_whole(folder, weights):
        raise ValueError(
            f"{hub_id} has no {weights} on the hub, and pickles are not fetched, since loading them can run code; "
            "where you trust them, convert once: AutoModelForCausalLM.from_pretrained(ID).save_pretrained(FOLDER), and "
            "give FOLDER as the path"
        )
    return folder


def about(hub_id: str, download: bool = True) -> Path | None:
    """The folder of a hub model in the local cache with what describes it: weights only if they are there already.

    Args:
        download: fetch what is not there; else the answer is None.

    Raises:
        FileNotFoundError: as ``fetch``.
    """
    cached = _cached(hub_id, _ABOUT)
    if cached is not None and (cached / "config.json").is_file():
        return cached
    return _downloaded(hub_id, _ABOUT) if download else None


def revision(hub_id: str) -> str | None:
    """The commit of a hub model that is in the local cache, in part or whole, and hence the one that is used."""
    found = _cached(hub_id, _ABOUT)
    return None if found is None else found.name


def _cached(hub_id: str, wanted: list[str]) -> Path | None:
    from huggingface_hub import snapshot_download  # a second; needed only where a config names a hub model

    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, local_files_only=True))
    except Exception:  # not in the cache, whatever the reason: ask the hub
        return None


def _downloaded(hub_id: str, wanted: list[str], commit: str | None = None) -> Path:
    """``commit``: the one to take; the newest where None."""
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(hub_id, allow_patterns=wanted, revision=commit))
    except Exception as error:
        if unwritable(error):
            raise OSError(
                f"{hub_id}: the Hugging Face cache cannot be written ({' '.join(str(error).split())}): set HF_HOME to "
                "a folder that can"
            ) from error
        raise FileNotFoundError(_what_to_place(hub_id, error)) from error


def _is_whole(folder: Path, weights: str) -> bool:
    """A cache may hold a part: the config alone, or some shards."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        return all((folder / shard).is_file() for shard in json.loads(index.read_text())["weight_map"].values())
    return any(folder.glob(weights))


def _what_to_place(hub_id: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    return (
        f"{hub_id} is neither a folder here nor in the Hugging Face cache, and the hub gave nothing "
        f"({type(error).__name__}: {reason}). Either fetch it where there is a network: `hf download {hub_id} "
        "--local-dir FOLDER` (a gated model first needs its terms accepted on its page and `hf auth login`), copy "
        "FOLDER (config.json, tokenizer*.json, *.safetensors) here and give it as the path; or mistyped: a local "
        f"folder {hub_id} does not exist"
    )
