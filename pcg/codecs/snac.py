"""SNAC (arXiv 2410.14411), Orpheus' codec: 24 kHz, three levels of codes, seven tokens a frame of 85 ms.

The package ``snac`` (MIT) has the model. A frame has one code of the first level, two of the second and four of the
third. Orpheus and models of its layout say them in the order 1 2 3 3 2 3 3, with separate tokens for each slot: slot s
has the tokens ``4096 s`` to ``4096 (s + 1) - 1``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from pcg.codecs.chunks import Chunks, at_rate
from pcg.constraints import ABOVE_0, FROM_0
from pcg.models.checkpoint import check_finite, read_json, resolve_folder
from pcg.types import Audio

log = logging.getLogger(__name__)
_LEVELS = (0, 1, 2, 2, 1, 2, 2)  # the level of each slot
_STRIDES = [4, 2, 1]  # codes of the third level for one code of each level
_FILES = ("model.safetensors", "pytorch_model.bin")


class Snac:
    """SNAC as a ``pcg.interfaces.Codec`` of seven tokens a frame; ``hop`` is the samples of a frame, ``frame`` is 7.

    A clip becomes whole frames, the last padded with silence; tokens after the last whole frame are dropped. A frame
    with a token of another slot is silent, and a warning gives the number of such frames. Clips longer than
    ``chunk_seconds`` are coded in overlapping chunks (``pcg.codecs.chunks``). The decoder adds noise, drawn from a
    fixed seed, so that the audio of a clip depends only on its tokens.

    Args:
        path: folder with config.json and the weights (safetensors, or a pickle of which only tensors are read), or a
            hub id.
        device: where it runs.
        chunk_seconds: longest piece that is coded at once.
        overlap_seconds: overlap of neighbouring pieces.

    Raises:
        ImportError: the package is not installed.
        FileNotFoundError: config.json or the weights are missing.
        ValueError: it is another SNAC than that of Orpheus, the weights do not fit or are not finite, or the overlap is
            more than half a chunk.
    """

    frame = len(_LEVELS)

    def __init__(
        self,
        path: str,
        device: str | torch.device = "cpu",
        chunk_seconds: Annotated[float, ABOVE_0] = 30.0,
        overlap_seconds: Annotated[float, FROM_0] = 1.0,
    ) -> None:
        self._device = torch.device(device)
        self._model = _load(path).to(self._device)
        self.sample_rate: int = self._model.sampling_rate
        self.hop = int(self._model.hop_length) * _STRIDES[0]
        self._codes: int = self._model.codebook_size
        self.codebook_size = self.frame * self._codes
        # one piece a pass, so that the noise of a piece does not depend on other pieces
        self._chunks = Chunks.of_seconds(self.sample_rate / self.hop, chunk_seconds, overlap_seconds, batch_size=1)

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Int[Tensor, "length"]]:
        clips = [self._padded(clip) for clip in audio]
        return [frames.flatten() for frames in self._chunks.encode(clips, self.hop, self._encode)]

    @torch.inference_mode()
    def decode(self, tokens: Sequence[Int[Tensor, "length"]]) -> list[Audio]:
        """``len(tokens) // 7 * hop`` samples each."""
        frames = [row[: len(row) // self.frame * self.frame].view(-1, self.frame).to(self._device) for row in tokens]
        misplaced = sum(int((~self._in_slot(row).all(1)).sum()) for row in frames)
        if misplaced:
            whole = sum(map(len, frames))
            log.warning("snac: %d of %d frames have a token of another slot and are silent", misplaced, whole)
        waves = self._chunks.decode(frames, self.hop, self._decode)
        return [Audio(samples.clamp(-1, 1).cpu().numpy(), self.sample_rate) for samples in waves]

    def codebook(self) -> Float[Tensor, "codebook dims"]:
        """The codebook of each slot's level, slot by slot."""
        levels = [quantizer.codebook.weight.detach().float() for quantizer in self._model.quantizer.quantizers]
        return torch.cat([levels[level] for level in _LEVELS])

    def _padded(self, clip: Audio) -> Float[Tensor, "samples"]:
        """The clip at the codec's rate, zero-padded to whole frames, at least one."""
        wave = at_rate(clip, self.sample_rate, self._device)
        return F.pad(wave, (0, max(self.hop, -(-len(wave) // self.hop) * self.hop) - len(wave)))

    def _offsets(self) -> Int[Tensor, "frame"]:
        return torch.arange(self.frame, device=self._device) * self._codes

    def _in_slot(self, frames: Int[Tensor, "*time frame"]) -> Bool[Tensor, "*time frame"]:
        return frames // self._codes == torch.arange(self.frame, device=frames.device)

    def _encode(self, waves: Float[Tensor, "batch samples"]) -> Int[Tensor, "batch time frame"]:
        coded = self._model.encode(waves[:, None])
        levels = [
            iter(codes.view(len(waves), -1, _STRIDES[0] // stride).unbind(-1))
            for codes, stride in zip(coded, _STRIDES, strict=True)
        ]
        return torch.stack([next(levels[level]) for level in _LEVELS], -1) + self._offsets()

    def _decode(self, frames: Int[Tensor, "batch time frame"]) -> Float[Tensor, "batch samples"]:
        in_slot = self._in_slot(frames)
        codes = (frames - self._offsets()) * in_slot
        levels = [
            torch.stack([codes[..., slot] for slot in range(self.frame) if _LEVELS[slot] == level], -1).flatten(1)
            for level in range(len(_STRIDES))
        ]
        devices = [self._device] if self._device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            waves = self._model.decode(levels)[:, 0]
        valid = in_slot.all(-1).repeat_interleave(self.hop, 1)
        return (waves * valid).float()


def _load(path: str) -> Any:
    try:
        from snac import SNAC
    except ImportError as error:
        raise ImportError("codec=snac needs the package snac: pip install 'pcg[snac]'") from error
    folder = resolve_folder(path, _FILES[1])
    config = read_json(folder / "config.json")
    if config.get("vq_strides") != _STRIDES:
        raise ValueError(
            f"{path}: config.json has vq_strides={config.get('vq_strides')}; seven tokens a frame need {_STRIDES}, as "
            "in hubertsiuzdak/snac_24khz"
        )
    model = SNAC(**config)
    files = [folder / name for name in _FILES if (folder / name).is_file()]
    if not files:
        raise FileNotFoundError(f"{folder} has neither {' nor '.join(_FILES)}")
    try:
        model.load_state_dict(_tensors(files[0]))
    except Exception as error:  # a truncated file, a pickle of more than tensors, or tensors of another shape
        raise ValueError(f"{files[0]} does not hold the weights that config.json describes: {error}") from error
    for name, weight in model.named_parameters():
        check_finite(f"{files[0]}: {name}", weight)
    return model.eval().requires_grad_(False)


def _tensors(file: Any) -> dict[str, Tensor]:
    """The weights of a safetensors file, or of a pickle, from which only tensors are read and no code runs."""
    if file.suffix == ".bin":
        return torch.load(file, map_location="cpu", weights_only=True)
    from safetensors.torch import load_file

    return load_file(file)
