"""Reading a Hugging Face model folder: config.json and safetensors, in one file or in shards."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from pcg import digest
from pcg.files import dead_link
from pcg.models import hub

BUNDLED = "bundled:"
Dtype = Literal["float32", "bfloat16", "float16"]
_DTYPES = {"F64": torch.float64, "F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_FLOATS = tuple(_DTYPES)  # as safetensors calls them
_QUANTISED_KEYS = ("quantization_config", "compression_config", "quantization")
# Tensors that no model needs: rotary angles and masks, which are computed, and ``t2d``, which follows from ``d2t``.
_HARMLESS = re.compile(r"(.*\.)?(rotary_emb\.inv_freq|attn\.(masked_)?bias|t2d)")
_INDEX, _WHOLE = "model.safetensors.index.json", "model.safetensors"
_SCALE = re.compile(
    r"(weight|input|output|k|v)_scale(_inv|_2)?$|[._](SCB|scales|qzeros|qweight|g_idx|absmax|quant_map|weight_packed)$"
)


def resolve_folder(path: str, weights: str = "*.safetensors") -> Path:
    """A model folder: a path, ``bundled:NAME`` for one that ships inside the package, or a hub id ``owner/name``.

    Raises FileNotFoundError for a hub id that is not in the local cache and cannot be fetched.
    """
    if path.startswith(BUNDLED):
        return Path(str(files("pcg.models"))) / "bundled" / path.removeprefix(BUNDLED)
    return hub.fetch(path, weights) if hub.is_hub_id(path) else Path(path).expanduser()


class Described(dict[str, Any]):
    """An object of a JSON file. Reading a missing key raises a ValueError that names the file and the key."""

    def __init__(self, values: Mapping[str, Any], file: Path) -> None:
        super().__init__(values)
        self.file = file

    def __missing__(self, key: str) -> Any:
        raise ValueError(f"{self.file} lacks {key!r}")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a file, and the objects in it, as ``Described``.

    Raises FileNotFoundError or ValueError, each naming the file.
    """
    if lost := dead_link(file):
        raise FileNotFoundError(lost)
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing: a model folder must have config.json, tokenizer files and *.safetensors"
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_hook=lambda values: Described(values, file))
    except ValueError as error:  # of JSON, or of UTF-8
        raise ValueError(f"{file} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file} holds {type(content).__name__}, expected an object")
    return content


class Checkpoint:
    """The tensors of a model folder, read one by one so that memory never holds a second copy of a model.

    It records which tensors were read, so that ``refuse_unread`` can name the others.

    Args:
        shapes_only: return tensors on the ``meta`` device, without reading them: a model built of these costs nothing
            and shows whether the folder's names and shapes fit.

    Raises:
        FileNotFoundError: the folder, its config or a shard is missing.
        ValueError: the folder holds only pickles, two models, an adapter or quantised weights, a file is truncated, or
            a tensor is missing, has the wrong shape or is not finite.
    """

    def __init__(self, folder: Path, shapes_only: bool = False) -> None:
        self.folder, self._shapes_only = folder, shapes_only
        self.config = read_json(folder / "config.json")
        if (folder / "adapter_config.json").is_file():
            raise ValueError(
                f"{folder} holds an adapter (adapter_config.json), which is not supported: merge it into the model and "
                "save the result (peft: merge_and_unload().save_pretrained(NEW))"
            )
        files, index = self._files()
        self._open = {file: _open_safetensors(file) for file in files}
        self._where = {name: file for file, handle in self._open.items() for name in handle.keys()} | index  # noqa: SIM118
        self._refuse_misplaced(index)
        self._read: set[str] = set()
        self._refuse_quantised()

    def _files(self) -> tuple[list[Path], dict[str, Path]]:
        """The files of weights, and the file of each tensor that an index names."""
        index, whole = self.folder / _INDEX, self.folder / _WHOLE
        for file in (index, whole):
            if lost := dead_link(file):
                raise FileNotFoundError(lost)
        if index.is_file():
            placed = {name: self.folder / shard for name, shard in read_json(index)["weight_map"].items()}
            shards = sorted(set(placed.values()))
            if whole.is_file() and whole not in shards:
                raise ValueError(
                    f"{self.folder} holds two models: {_WHOLE}, and {_INDEX}, which names {len(shards)} shard(s) "
                    f"({shards[0].name}, ...): remove one of them, either {_WHOLE} or the index with its shards"
                )
            missing = [shard.name for shard in shards if not shard.is_file()]
            if missing:
                raise FileNotFoundError(f"{self.folder}: {_INDEX} names shards that are missing: {', '.join(missing)}")
            return shards, placed
        if whole.is_file():
            return [whole], {}
        pickles = sorted(p.name for pattern in ("*.bin", "*.pt", "*.pth", "*.ckpt") for p in self.folder.glob(pattern))
        if pickles:
            raise ValueError(
                f"{self.folder} holds only pickled weights ({pickles[0]}), which are refused, since loading them can "
                "run code; if you trust them, convert once: "
                "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW)"
            )
        raise FileNotFoundError(f"{self.folder} holds neither {_WHOLE} nor {_INDEX}")

    def _refuse_misplaced(self, index: Mapping[str, Path]) -> None:
        held = {file: set(handle.keys()) for file, handle in self._open.items()}
        misplaced = [(name, file) for name, file in index.items() if name not in held[file]]
        if misplaced:
            name, file = misplaced[0]
            raise ValueError(
                f"{self.folder}: {_INDEX} says that {file.name} holds {name}, but it does not"
                + (f" (nor {len(misplaced) - 1} others)" if len(misplaced) > 1 else "")
                + ": fetch the folder again"
            )

    @property
    def twice(self) -> dict[str, list[str]]:
        """The tensors that several shards hold, with these shards; we read the one that the index names."""
        held: dict[str, list[str]] = {}
        for file, handle in self._open.items():
            for name in handle.keys():  # noqa: SIM118
                held.setdefault(name, []).append(file.name)
        return {name: files for name, files in held.items() if len(files) > 1}

    @property
    def fingerprint(self) -> str:
        """Ten hexadecimal digits that depend on all names, types, shapes and numbers, but not on the sharding."""
        by_file = {file: digest.of_tensors(file) for file in self._open}
        digests = sorted((name, by_file[file][name]) for name, file in self._where.items())
        return hashlib.blake2b(repr(digests).encode(), digest_size=5).hexdigest()

    def refuse_unread(self) -> None:
        """Raises ValueError for tensors that were not read: a model without them is not the one that was saved."""
        unread = sorted(name for name in self._where if name not in self._read and not is_harmless(name))
        if unread:
            raise ValueError(f"{self.folder}: {unread_tensors(unread)}")

    def _refuse_quantised(self) -> None:
        """Raises ValueError where the config, a tensor's type or a scale beside it shows quantised weights."""
        signs = [f"config.json has {key}" for key in _QUANTISED_KEYS if self.config.get(key)]
        for name, file in self._where.items():
            dtype = self._open[file].get_slice(name).get_dtype()
            if name.endswith("weight") and dtype not in _FLOATS:
                signs.append(f"{name} is {dtype}")
            elif _SCALE.search(name):
                signs.append(f"there is {name}")
        if signs:
            raise ValueError(
                f"{self.folder} holds quantised weights ({', '.join(signs[:3])}): only {', '.join(_FLOATS)} are "
                "supported. Use the checkpoint that it was made from, or convert it once: "
                "AutoModelForCausalLM.from_pretrained(FOLDER).dequantize().save_pretrained(NEW)"
            )

    @property
    def names(self) -> list[str]:
        return list(self._where)

    def __contains__(self, name: str) -> bool:
        return name in self._where

    def shape(self, name: str) -> tuple[int, ...]:
        """As the header of its file says."""
        return tuple(self._open[self._where[name]].get_slice(name).get_shape())

    def dtype(self, name: str) -> str:
        """The type, as safetensors calls it."""
        return self._open[self._where[name]].get_slice(name).get_dtype()

    def rows(self, name: str, ids: Tensor) -> Tensor:
        """Rows of a table, as stored; reads only the part between the lowest and the highest of them."""
        self._read.add(name)
        file, low, high = self._where[name], int(ids.min()), int(ids.max()) + 1
        return _complete(file, lambda: self._open[file].get_slice(name)[low:high])[ids - low]

    def tensor(self, name: str, shape: tuple[int, ...] | None) -> Tensor:
        """The whole tensor as stored, on the CPU; ``shape`` is checked unless it is None."""
        if name not in self._where:
            raise ValueError(f"{self.folder} has no tensor {name}")
        self._read.add(name)
        file = self._where[name]
        if self._shapes_only:
            tensor = torch.empty(self.shape(name), dtype=_DTYPES.get(self.dtype(name)), device="meta")
        else:
            tensor = _complete(file, lambda: self._open[file].get_tensor(name))
        if shape is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"{self.folder}: {name} has shape {tuple(tensor.shape)}, its config.json says {shape}")
        if not self._shapes_only:
            check_finite(f"{self.folder}: {name}", tensor)
        return tensor


def is_harmless(name: str) -> bool:
    """Whether a tensor may be left unread, since no model needs it."""
    return _HARMLESS.fullmatch(name) is not None


def unread_tensors(names: Sequence[str]) -> str:
    """An error message that names the first few tensors which no part of a model reads."""
    shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    return (
        f"{shown}: no part of the model reads {'them' if len(names) > 1 else 'it'}, so it would not be the model that "
        "was saved. Correct config.json if a setting is missing there (biases: attention_bias; layers: "
        "num_hidden_layers), choose a decoder for that architecture, or save the folder without these tensors"
    )


def check_finite(name: str, tensor: Tensor) -> None:
    """Raises ValueError for a NaN or an infinity, which would spread to every later token."""
    if not tensor.is_floating_point() or tensor.sum(dtype=torch.float32).isfinite():
        return
    bad = int((~tensor.isfinite()).sum())  # the sum may overflow although no number is infinite
    if bad:
        raise ValueError(f"{name} holds NaN or infinity in {bad} of its {tensor.numel()} numbers: fetch it again")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """All tensors of one safetensors file.

    Raises:
        FileNotFoundError, ValueError: it is missing, truncated, or holds numbers that are not finite.
    """
    if not file.is_file():
        raise FileNotFoundError(f"{file} is missing")
    tensors = _complete(file, lambda: load_file(file))
    for name, tensor in tensors.items():
        check_finite(f"{file}: {name}", tensor)
    return tensors


def _open_safetensors(file: Path) -> Any:
    return _complete(file, lambda: safe_open(str(file), framework="pt"))


def _complete(file: Path, read: Callable[[], Any]) -> Any:
    """What ``read`` returns; raises ValueError that names the file where it is truncated."""
    try:
        return read()
    except SafetensorError as error:
        raise ValueError(f"{file} is truncated or not safetensors ({error}): fetch it again") from error


def dtype_of(name: str) -> torch.dtype:
    """``float32``, ``bfloat16`` or ``float16``."""
    choices = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in choices:
        raise ValueError(f"dtype={name!r} is not supported; choose {', '.join(choices)}")
    return choices[name]
