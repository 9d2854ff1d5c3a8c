"""X-codec2 (arXiv 2502.04128), the codec of LLaSA, and NeuCodec (arXiv 2509.09550), that of NeuTTS, of the same design.

Both read 16 kHz and give 50 tokens a second of one FSQ codebook of 4^8 codes. X-codec2 returns 16 kHz, NeuCodec 24 kHz.
The models are those of transformers. Features are computed here, because transformers' extractor needs torchaudio,
which not every build of torch has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from pcg.codecs.chunks import Chunks, at_rate, whole_hops
from pcg.codecs.fbank import Fbank
from pcg.constraints import ABOVE_0, FROM_0, FROM_1, one_of
from pcg.models.checkpoint import Checkpoint, Dtype, dtype_of, resolve_folder
from pcg.models.hf import pretrained
from pcg.types import Audio

_READS = 16_000  # Hz


@dataclass(frozen=True)
class _Kind:
    """What differs between the two codecs.

    Attributes:
        model: class of transformers, available since version ``since``.
        advice: what to do if the folder has another model.
        side: samples of silence on either side of the clip for its features.
        ahead: hops at a clip's end that get no token.
    """

    model: str
    since: str
    advice: str
    side: int
    ahead: int


_KINDS = {
    "xcodec2": _Kind(
        "Xcodec2Model", "5.13", "give one converted for transformers (HKUSTAudio/xcodec2-hf)", side=160, ahead=0
    ),
    "neucodec": _Kind(
        "NeuCodecModel", "5.17", "give one converted for transformers; codec=xcodec2 reads X-codec2", side=0, ahead=1
    ),
}


class Xcodec2:
    """X-codec2 or NeuCodec as a ``pcg.interfaces.Codec``; ``sample_rate`` and ``hop`` are those of its output.

    A clip of n samples at 16 kHz is padded, by at least one sample, to ``n // 320 + 1`` whole tokens. NeuCodec gives
    one token less, but at least one, because its windows lie within the clip. Clips longer than ``chunk_seconds`` are
    coded in overlapping chunks (``pcg.codecs.chunks``).

    Args:
        path: folder of the checkpoint converted for transformers, or a hub id.
        model: xcodec2 or neucodec, the ``model_type`` in its config.json.
        dtype: of the computation: float32, bfloat16 or float16.
        device: where it runs.
        chunk_seconds: longest piece that is coded at once.
        overlap_seconds: overlap of neighbouring pieces.
        batch_size: pieces that are coded together.

    Raises:
        ImportError: transformers is too old for the model.
        ValueError: the folder has another model, weights that are not finite, or a model that reads another rate; or
            the overlap is more than half a chunk.
    """

    frame = 1

    def __init__(
        self,
        path: str,
        model: Annotated[str, one_of(*_KINDS)] = "xcodec2",
        device: str | torch.device = "cpu",
        dtype: Dtype = "float32",
        chunk_seconds: Annotated[float, ABOVE_0] = 30.0,
        overlap_seconds: Annotated[float, FROM_0] = 1.0,
        batch_size: Annotated[int, FROM_1] = 8,
    ) -> None:
        self._kind = _KINDS[model]
        self._dtype, self._device = dtype_of(dtype), torch.device(device)
        self._model = _load(path, model, self._dtype).to(self._device)
        self._fbank = Fbank().to(self._device)
        config = self._model.config
        rate: Any = getattr(config, "sampling_rate", None)  # of input and output, unless each has its own
        reads = getattr(config, "input_sampling_rate", rate)
        if reads != _READS:
            raise ValueError(f"{path}: config.json gives an input rate of {reads} Hz; only {_READS} Hz is supported")
        self.sample_rate: int = getattr(config, "output_sampling_rate", rate)
        self.hop: int = config.hop_length
        self.codebook_size = int(np.prod(config.quantization_levels))
        self._read_hop: int = getattr(config, "encoder_hop_length", self.hop)
        self._chunks = Chunks.of_seconds(_READS / self._read_hop, chunk_seconds, overlap_seconds, batch_size)

    @torch.inference_mode()
    def encode(self, audio: Sequence[Audio]) -> list[Int[Tensor, "length"]]:
        clips = [self._padded(clip) for clip in audio]
        return self._chunks.encode(clips, self._read_hop, self._encode, self._kind.ahead)

    @torch.inference_mode()
    def decode(self, tokens: Sequence[Int[Tensor, "length"]]) -> list[Audio]:
        waves = self._chunks.decode([row.to(self._device) for row in tokens], self.hop, self._decode)
        return [Audio(samples.clamp(-1, 1).cpu().numpy(), self.sample_rate) for samples in waves]

    def codebook(self) -> Float[Tensor, "codebook dims"]:
        """The FSQ grid: eight digits a token, evenly spaced in [-1, 1]."""
        return self._model.quantizer.quantizer.codebook.float()

    def _padded(self, clip: Audio) -> Float[Tensor, "samples"]:
        """The clip at 16 kHz, zero-padded to whole tokens, at least one."""
        wave = whole_hops(at_rate(clip, _READS, self._device), self._read_hop)
        return F.pad(wave, (0, max(0, (1 + self._kind.ahead) * self._read_hop - len(wave))))

    def _encode(self, waves: Float[Tensor, "batch samples"]) -> Int[Tensor, "batch time"]:
        """A token for each hop, without the last ``ahead`` ones."""
        features = self._fbank(F.pad(waves, (self._kind.side, self._kind.side)))
        codes = self._model.encode(waves[:, None].to(self._dtype), features.to(self._dtype)).audio_codes
        return codes[:, 0].long()

    def _decode(self, tokens: Int[Tensor, "batch time"]) -> Float[Tensor, "batch samples"]:
        return self._model.decode(tokens[:, None]).audio_values[:, 0].float()


def _load(path: str, name: str, dtype: torch.dtype) -> Any:
    """Transformers' model ``name`` from a folder or hub id, on the CPU."""
    import transformers  # takes seconds to import

    kind = _KINDS[name]
    if not hasattr(transformers, kind.model):
        raise ImportError(f"codec={name} needs transformers {kind.since} or later for {kind.model}")
    folder = resolve_folder(path)
    checkpoint = Checkpoint(folder)
    model_type = checkpoint.config.get("model_type")
    if model_type != name:
        raise ValueError(f"{path}: config.json has model_type={model_type!r}, not {name!r}; {kind.advice}")
    return pretrained(getattr(transformers, kind.model), checkpoint, dtype)
