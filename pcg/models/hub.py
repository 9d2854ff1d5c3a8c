"""Model folders on the Hugging Face hub: fetched once, then read from its cache."""

from __future__ import annotations

import re
from pathlib import Path

# Weights as safetensors only: pickles are never fetched.
_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "LICENSE*"]
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def is_hub_id(path: str) -> bool:
    """Whether ``path`` is written as ``owner/name`` and no such folder is here: a folder always goes first."""
    return _ID.fullmatch(path) is not None and not Path(path).exists()


def fetch(hub_id: str) -> Path:
    """The folder of a hub model in the local cache, downloaded where it is not there yet.

    Raises:
        FileNotFoundError: it is neither in the cache nor to be had; the message says what to place where.
    """
    from huggingface_hub import snapshot_download  # a second; needed only where a config names a hub model

    try:
        return Path(snapshot_download(hub_id, allow_patterns=_FILES, local_files_only=True))
    except Exception:  # not complete in the cache, whatever the reason: ask the hub
        pass
    try:
        return Path(snapshot_download(hub_id, allow_patterns=_FILES))
    except Exception as error:
        raise FileNotFoundError(_what_to_do(hub_id, error)) from error


def _what_to_do(hub_id: str, error: Exception) -> str:
    reason = " ".join(str(error).split())[:300]
    return (
        f"{hub_id} is neither a folder here nor in the Hugging Face cache, and the hub gave nothing "
        f"({type(error).__name__}: {reason}). Either fetch it where there is a network: `hf download {hub_id} "
        "--local-dir FOLDER` (a gated model first needs its terms accepted on its page and `hf auth login`), copy "
        "FOLDER (config.json, tokenizer*.json, *.safetensors) here and give it as the path; or mistyped: a local "
        f"folder {hub_id} does not exist"
    )
