"""Reading a Hugging Face model folder: config.json and safetensors, in one file or in shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from pcg.models import hub

BUNDLED = "bundled:"
Dtype = Literal["float32", "bfloat16", "float16"]
_FLOATS = ("F64", "F32", "BF16", "F16")  # as safetensors calls them
_QUANTISED_KEYS = ("quantization_config", "compression_config", "quantization")
_SCALE = re.compile(
    r"(weight|input|output|k|v)_scale(_inv|_2)?$|[._](SCB|scales|qzeros|qweight|g_idx|absmax|quant_map|weight_packed)$"
)


def resolve_folder(path: str) -> Path:
    """A model folder: a path, ``bundled:NAME`` for one that ships inside the package, or a hub id ``owner/name``.

    Raises FileNotFoundError for a hub id that is neither in the local cache nor to be fetched.
    """
    if path.startswith(BUNDLED):
        return Path(str(files("pcg.models"))) / "bundled" / path.removeprefix(BUNDLED)
    return hub.fetch(path) if hub.is_hub_id(path) else Path(path).expanduser()


class Described(dict[str, Any]):
    """An object of a JSON file: asked for a key that it lacks, it raises a ValueError that names file and key."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.file} lacks {key!r}")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file, and the objects in it, as ``Described``.

    Raises FileNotFoundError or ValueError, each naming the file.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing: a model folder holds config.json, its tokens and *.safetensors")
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_hook=lambda found: Described(found, file))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, expected an object")
    return content


class Checkpoint:
    """The tensors of a model folder, read one by one so that no second copy of a model is ever held.

    Raises FileNotFoundError for a missing folder, config or shard, ValueError for a folder of pickles only, quantised
    weights, a truncated file, or a tensor that is missing, of the wrong shape or not finite.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = read_json(folder / "config.json")
        self._open = {file: _open_safetensors(file) for file in self._shards()}
        self._where = {name: file for file, handle in self._open.items() for name in handle.keys()}  # noqa: SIM118
        self._refuse_quantised()

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

    def _refuse_quantised(self) -> None:
        """Numbers that mean something only times a scale, by the config, by their type or by a scale beside them."""
        signs = [f"config.json has {key}" for key in _QUANTISED_KEYS if self.config.get(key)]
        for name, file in self._where.items():
            dtype = self._open[file].get_slice(name).get_dtype()
            if name.endswith("weight") and dtype not in _FLOATS:
                signs.append(f"{name} is {dtype}")
            elif _SCALE.search(name):
                signs.append(f"there is {name}")
        if signs:
            raise ValueError(
                f"{self.folder} holds quantised weights ({', '.join(signs[:3])}): only {', '.join(_FLOATS)} are read. "
                "Take the checkpoint that it was made from, or undo it once: "
                "AutoModelForCausalLM.from_pretrained(FOLDER).dequantize().save_pretrained(NEW)"
            )

    @property
    def names(self) -> list[str]:
        return list(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """From the header of its file."""
        return tuple(self._open[self._where[name]].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """As safetensors calls it."""
        return self._open[self._where[name]].get_slice(name).get_dtype()

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Rows of a table, as stored; no more is read than lies between the lowest and the highest of them."""
        file, low, high = self._where[name], int(ids.min()), int(ids.max()) + 1
        return _complete(file, lambda: self._open[file].get_slice(name)[low:high])[ids - low]

    def tensor(self, name: str, shape: tuple[int, ...] | None) -> Tensor:
        """The whole tensor as stored, on the CPU; ``shape`` is what it must have, None where any will do."""
        if name not in self._where:
            raise ValueError(f"{self.folder} has no tensor {name}")
        file = self._where[name]
        tensor = _complete(file, lambda: self._open[file].get_tensor(name))
        if shape is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{self.folder}: {name} has shape {tuple(tensor.shape)}, its config.json says {shape}")
        check_finite(f"{self.folder}: {name}", tensor)
        return tensor


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises ValueError for a NaN or an infinity, which would reach every token that comes after."""
    if not tensor.is_floating_point() or tensor.sum(dtype=torch.float32).isfinite():
        return
    bad = int((~tensor.isfinite()).sum())  # a sum may overflow where no number does
    if bad:
        raise ValueError(f"{name} holds NaN or infinity in {bad} of its {tensor.numel()} numbers: fetch it again")


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


def refuse_head_bias(checkpoint: Checkpoint) -> None:
    """Raise ValueError for an output head with a bias, which a model without one would leave out in silence."""
    if "lm_head.bias" in checkpoint:
        raise ValueError(
            f"{checkpoint.folder}: holds lm_head.bias, and this architecture's head has none: the model would not be "
            "the one that was exported"
        )
