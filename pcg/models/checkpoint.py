"""Reading a Hugging Face model folder: config.json and safetensors, in one file or in shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pcg.models import hub

BUNDLED = "bundled:"
Dtype = Literal["float32", "bfloat16", "float16"]


def resolve_folder(path: str) -> Path:
    """A model folder: a path, ``bundled:NAME`` for one that ships inside the package, or a hub id ``owner/name``.

    Raises FileNotFoundError for a hub id that is neither in the local cache nor to be fetched.
    """
    if path.startswith(BUNDLED):
        return Path(str(files("pcg.models"))) / "bundled" / path.removeprefix(BUNDLED)
    return hub.fetch(path) if hub.is_hub_id(path) else Path(path).expanduser()


def read_json(file: Path) -> dict[str, Any]:
    """Raises FileNotFoundError or ValueError, each naming the file."""
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: a model folder holds config.json, its tokens and *.safetensors")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, expected an object")
    return content


class Checkpoint:
    """The tensors of a model folder, read one by one so that no second copy of a model is ever held.

    Raises FileNotFoundError for a missing folder, config or shard, ValueError for a folder of pickles only, a
    truncated file, or a tensor that is missing or of the wrong shape.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self._open = {file: _open_safetensors(file) for file in self._shards()}
        self._where = {name: file for file, handle in self._open.items() for name in handle.keys()}  # noqa: SIM118

    def _shards(self) -> list[Path]:
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            names = sorted(set(read_json(index)["weight_map"].values()))
            missing = [name for name in names if not (self.folder / name).is_file()]
            if missing:
                raise FileNotFoundError(
                    f"{self.folder}: {index.name} names shards that are missing: {', '.join(missing)}"
                )
            return [self.folder / name for name in names]
        if (self.folder / "model.safetensors").is_file():
            return [self.folder / "model.safetensors"]
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in self.folder.glob(pattern))
        if pickles:
            raise ValueError(
                f"{self.folder} holds pickled weights only ({pickles[0]}): refused, since loading them can run code; "
                "where you trust them, convert once: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)"
            )
        raise FileNotFoundError(f"{self.folder} holds neither model.safetensors nor model.safetensors.index.json")

    @property
    def fingerprint(self) -> str:
        """Ten hexadecimal digits that change whenever the model is trained on: the names, and the last norm."""
        digest = hashlib.blake2b(" ".join(sorted(self._where)).encode(), digest_size=5)
        if "model.norm.weight" in self:
            norm = self._open[self._where["model.norm.weight"]].get_tensor("model.norm.weight")
            digest.update(norm.float().numpy().tobytes())
        return digest.hexdigest()

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def tensor(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """The whole tensor as stored, on the CPU."""
        if name not in self._where:
            raise ValueError(f"{self.folder} has no tensor {name}")
        file = self._where[name]
        tensor = _complete(file, lambda: self._open[file].get_tensor(name))
        if tuple(tensor.shape) != shape:
            raise ValueError(f"{self.folder}: {name} has shape {tuple(tensor.shape)}, its config.json says {shape}")
        return tensor


def _open_safetensors(file: Path) -> Any:
    return _complete(file, lambda: safe_open(str(file), framework="pt"))


def _complete(file: Path, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or not safetensors ({error}): fetch it again") from error


def dtype_of(name: str) -> torch.dtype:
    """``float32``, ``bfloat16`` or ``float16``."""
    choices = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in choices:
        raise ValueError(f"dtype={name!r}: one of {', '.join(choices)}")
    return choices[name]
