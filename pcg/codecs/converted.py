"""What codecs that were converted for transformers share: how their folder is read, and clips at the rate they read."""

from __future__ import annotations

from typing import Any

import numpy as np
import soxr
import torch
from jaxtyping import Float
from torch import Tensor

from pcg.models.checkpoint import Checkpoint, check_finite, resolve_folder
from pcg.types import Audio


def load(make: Any, path: str, kind: str, advice: str, dtype: torch.dtype, device: torch.device) -> Any:
    """The model of class ``make`` in a folder or hub id, ready to be asked.

    Args:
        kind: the ``model_type`` that its config.json must have; ``advice``: what to say where it has another.

    Raises:
        ValueError: another kind of model, weights that are no numbers.
    """
    folder = resolve_folder(path)
    found = Checkpoint(folder).config.get("model_type")  # also refuses pickles and broken files, by name
    if found != kind:
        raise ValueError(f"{path}: config.json has model_type={found!r}, not {kind!r}; {advice}")
    model = make.from_pretrained(folder, dtype=dtype, local_files_only=True)
    for name, weight in model.named_parameters():
        check_finite(f"{path}: {name}", weight)
    return model.eval().requires_grad_(False).to(device)


def at_rate(clip: Audio, rate: int, device: torch.device) -> Float[Tensor, "samples"]:
    samples = soxr.resample(np.asarray(clip.samples, dtype=np.float32), clip.sample_rate, rate)
    return torch.from_numpy(np.ascontiguousarray(samples)).to(device)
