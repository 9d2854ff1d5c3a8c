"""Folders of the real shape, names and files with small or random weights, saved by the libraries themselves.

What is real is what code can trip over: file names, config keys, token names, row counts, the chat template's
grammar, dataset columns. What is small is the depth and the width.
"""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow
import soundfile
import soxr
import torch

from pcg.data.bundled import Bundled

REAL_BASE, REAL_AUDIO, REAL_ROWS = 128_256, 65_536, 193_800
MARKERS = [
    f"<|{kind}_{edge}|>"
    for kind in ("TEXT_GENERATION", "TEXT_UNDERSTANDING", "SPEECH_GENERATION", "SPEECH_UNDERSTANDING")
    for edge in ("START", "END")
]
_LLAMA = ["<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# The grammar of Llama 3's instruct template: a system turn with the date, then a header and an end for each turn.
TEMPLATE = (
    "{{- bos_token }}"
    "{%- if not date_string is defined %}{%- set date_string = strftime_now('%d %b %Y') %}{%- endif %}"
    "{{- '<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday Date: ' }}"
    "{{- date_string + '\n\n<|eot_id|>' }}"
    "{%- for message in messages %}"
    "{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim }}"
    "{{- '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)


def save_llasa_tokenizer(
    folder: Path, audio_tokens: int, base: int, skip: tuple[int, ...] = (), speech: str = "<|s_{}|>"
) -> int:
    """A byte-level BPE with ``base`` entries, then LLaSA's markers and speech tokens; how many entries there are."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("t", "h"), ("th", "e"), ("Ġ", "the")]
    words = [*letters, *(a + b for a, b in merges)]
    words += [f"Ġunused{i}" for i in range(base - len(_LLAMA) - len(words))]
    tokenizer = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>", chat_template=TEMPLATE
    )
    fast.add_tokens(_LLAMA, special_tokens=True)
    fast.add_tokens([*MARKERS, *(speech.format(i) for i in range(audio_tokens) if i not in skip)])
    fast.save_pretrained(folder)
    return len(fast)


def make_llasa(
    folder: Path,
    *,
    audio_tokens: int = 64,
    base: int = 300,
    layers: int = 2,
    seed: int = 0,
    tied: bool = True,
    dtype: torch.dtype = torch.bfloat16,
    shard: str = "50GB",
    speech: str = "<|s_{}|>",
    **config: object,
) -> Path:
    """A random Llama 3.2 of LLaSA's config, 64 wide, with its tokenizer. ``audio_tokens=REAL_AUDIO,
    base=REAL_BASE`` gives the 193,800 rows of the real ones."""
    from transformers import LlamaConfig, LlamaForCausalLM

    rows = save_llasa_tokenizer(folder, audio_tokens, base, speech=speech)
    settings: dict[str, object] = {
        "vocab_size": rows,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 131_072 if base == REAL_BASE else 4_096,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": tied,
        "initializer_range": 0.2,
        "rope_parameters": {
            "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
        },
    }  # fmt: skip
    torch.manual_seed(seed)
    LlamaForCausalLM(LlamaConfig(**{**settings, **config})).to(dtype).save_pretrained(folder, max_shard_size=shard)
    return folder


NEUTTS = ["<|TEXT_PROMPT_START|>", "<|TEXT_PROMPT_END|>", "<|SPEECH_GENERATION_START|>", "<|SPEECH_GENERATION_END|>"]
COSYVOICE = ["<|eos1|>", "<|eos2|>", "<|eos3|>", "<|sos|>", "<|task_id|>"]

# Of 200 tokens that follow the codes four have names of their own.
COSYVOICE3_AFTER = ["<|sos|>", "<|eos1|>", "<|task_id|>", "<|fill|>", *(f"<|s_{i}|>" for i in range(6565, 6761))]


def make_cosyvoice3(folder: Path, seed: int = 0) -> Path:
    """Fun-CosyVoice3's real tokens after a text vocabulary of bytes, and an untied Qwen2."""
    return make_templated(
        folder, "Qwen2", ["<|endofprompt|>"], "<|s_{}|>", codes=6561, after=COSYVOICE3_AFTER, tied=False, seed=seed
    )


def make_chatterbox(folder: Path, weights: str, *, layers: int = 2, seed: int = 0) -> Path:
    """A T3 of Chatterbox Turbo's kind under its files' and tensors' names, with its speech tokens, one head wide."""
    from safetensors.torch import save_file
    from tokenizers import pre_tokenizers
    from transformers import GPT2Config, GPT2Model, GPT2Tokenizer

    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = GPT2Tokenizer(vocab={word: i for i, word in enumerate([*letters, "<|endoftext|>"])}, merges=[])
    tokenizer.add_tokens(["[laugh]", "[sigh]"])
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    body = GPT2Model(GPT2Config(vocab_size=8, n_embd=64, n_layer=layers, n_head=1, n_positions=512))
    parts = {
        "text_emb": torch.nn.Embedding(len(tokenizer), 64), "speech_emb": torch.nn.Embedding(6563, 64),
        "text_head": torch.nn.Linear(64, len(tokenizer), bias=False), "speech_head": torch.nn.Linear(64, 6563),
        "cond_enc.spkr_enc": torch.nn.Linear(256, 64), "tfmr": body,
    }  # fmt: skip
    tensors = {f"{part}.{name}": tensor for part, made in parts.items() for name, tensor in made.state_dict().items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / weights)
    return folder


def make_chatterbox_voice(file: Path, heard: int = 20) -> Path:
    """What of ``conds.pt`` a T3 reads."""
    from safetensors.torch import save_file

    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 6561, (1, heard), generator=generator)
    save_file({"speaker_emb": torch.randn(1, 256, generator=generator), "cond_prompt_speech_tokens": tokens}, file)
    return file


def make_templated(
    folder: Path, kind: str, markers: list[str], speech: str, *, codes: int = 24, before: int = 0, seed: int = 0,
    after: list[str] | None = None, tied: bool = True, begin: str | None = None,
) -> Path:  # fmt: skip
    """A random Qwen2 or Llama, 32 wide, with a byte-level tokenizer: ``before`` entries nobody needs, the markers,
    ``codes`` speech tokens, and what comes ``after``. ``begin``: the token that the tokenizer begins every text with,
    as Llama 3's does."""
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({sign: i for i, sign in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    fast.add_tokens([f"<|unused_{i}|>" for i in range(before)])
    fast.add_tokens([*markers, *(speech.format(i) for i in range(codes)), *(after or []), *([begin] * bool(begin))])
    if begin is not None:
        fast.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", special_tokens=[(begin, fast.convert_tokens_to_ids(begin))]
        )
    fast.save_pretrained(folder)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=2048, tie_word_embeddings=tied, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(seed)
    getattr(transformers, f"{kind}ForCausalLM")(config).save_pretrained(folder)
    return folder


SPARK = ["<|task_tts|>", "<|start_content|>", "<|end_content|>", "<|start_global_token|>", "<|end_global_token|>",
         "<|start_semantic_token|>", "<|end_semantic_token|>"]  # fmt: skip


def make_orpheus(folder: Path, seed: int = 0) -> Path:
    """Orpheus' real 28,684 tokens after a text vocabulary of bytes."""
    return make_templated(folder, "Llama", _LLAMA, "<custom_token_{}>", codes=28_684, seed=seed)


def make_spark(folder: Path, seed: int = 0) -> Path:
    """Spark-TTS' real speech and voice tokens after a text vocabulary of bytes."""
    voices = [f"<|bicodec_global_{i}|>" for i in range(4096)]
    return make_templated(folder, "Qwen2", SPARK, "<|bicodec_semantic_{}|>", codes=8192, after=voices, seed=seed)


def other_weights(folder: Path, to: Path, seed: int) -> Path:
    """A copy of a folder with weights drawn anew: a draft of the same family, whose tokenizer took seconds to save."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shutil.copytree(folder, to)
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder)).save_pretrained(to)
    return to


def make_snac(folder: Path, seed: int = 0) -> Path:
    """SNAC of the real hop, rate, strides and codes, with narrow layers, as a pickle of tensors, which is published."""
    from snac import SNAC

    config = {
        "sampling_rate": 24_000, "encoder_dim": 4, "encoder_rates": [2, 4, 8, 8], "decoder_dim": 32,
        "decoder_rates": [8, 8, 4, 2], "attn_window_size": None, "codebook_size": 4096, "codebook_dim": 8,
        "vq_strides": [4, 2, 1], "noise": True, "depthwise": True,
    }  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    torch.manual_seed(seed)
    torch.save(SNAC(**config).state_dict(), folder / "pytorch_model.bin")
    return folder


def make_xcodec2(folder: Path, levels: tuple[int, ...] = (4,) * 8, seed: int = 0) -> Path:
    """X-codec2 of the real hop, rate and codes (4^8 unless told), with tiny layers."""
    from transformers import Xcodec2Config, Xcodec2Model

    return _make_codec(folder, Xcodec2Config, Xcodec2Model, levels, seed)


def make_neucodec(folder: Path, levels: tuple[int, ...] = (4,) * 8, seed: int = 0) -> Path:
    """NeuCodec of the real hops, rates and codes (4^8 unless told), with tiny layers."""
    from transformers import NeuCodecConfig, NeuCodecModel

    return _make_codec(folder, NeuCodecConfig, NeuCodecModel, levels, seed)


def _make_codec(folder: Path, config_class: Any, model_class: Any, levels: tuple[int, ...], seed: int) -> Path:
    from transformers import Wav2Vec2BertConfig

    semantic = Wav2Vec2BertConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        feature_projection_input_dim=160,
    )
    config = config_class(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, num_key_value_heads=2,
        head_dim=16, encoder_hidden_size=4, quantization_dim=48, quantization_levels=list(levels),
        semantic_model_config=semantic.to_dict(),
    )  # fmt: skip
    torch.manual_seed(seed)
    model = model_class(config)
    torch.nn.init.normal_(model.quantizer.project_in.weight, std=2.0)  # else every frame falls into one code
    torch.nn.init.normal_(model.fc_encoder.weight, std=1.0)
    model.save_pretrained(folder)
    return folder


@dataclass(frozen=True)
class Recording:
    id: str
    speaker: str
    chapter: str
    text: str
    audio: bytes  # 24 kHz WAV


def recordings(count: int = 8) -> list[Recording]:
    """Clips of the bundled set, resampled to LibriTTS's rate, two speakers by turns, with ids as there."""
    made = []
    for index, utterance in enumerate(Bundled(limit=count)):
        speaker, chapter = ("1089", "134686") if index % 2 else ("121", "121726")
        clip = utterance.load_reference()
        file = io.BytesIO()
        soundfile.write(file, soxr.resample(clip.samples, clip.sample_rate, 24_000), 24_000, format="WAV")
        name = f"{speaker}_{chapter}_{index:06d}_000000"
        made.append(Recording(name, speaker, chapter, utterance.text, file.getvalue()))
    return made


def make_libritts_folders(folder: Path, count: int = 8) -> Path:
    """LibriTTS/test-clean as published."""
    for recording in recordings(count):
        place = folder / recording.speaker / recording.chapter
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{recording.id}.wav").write_bytes(recording.audio)
        (place / f"{recording.id}.normalized.txt").write_text(recording.text + "\n")
        (place / f"{recording.id}.original.txt").write_text(recording.text + "\n")
    return folder


def make_libritts_parquet(folder: Path, count: int = 8) -> Path:
    """The hub's repository: parquet of the hub's columns, configs and splits named in README.md."""
    from datasets import Audio, Dataset, Features, Value

    text = Value("string")
    features = Features(
        audio=Audio(sampling_rate=24_000), text_normalized=text, text_original=text, speaker_id=text, path=text,
        chapter_id=text, id=text,
    )  # fmt: skip
    rows = [
        {
            "audio": {"bytes": r.audio, "path": f"{r.id}.wav"}, "text_normalized": r.text, "text_original": r.text,
            "speaker_id": r.speaker, "path": f"{r.speaker}/{r.id}.wav", "chapter_id": r.chapter, "id": r.id,
        }
        for r in recordings(count)
    ]  # fmt: skip
    table = pyarrow.Table.from_pylist(rows, schema=features.arrow_schema)
    (folder / "data" / "test.clean").mkdir(parents=True)
    Dataset(table).to_parquet(folder / "data" / "test.clean" / "test.clean-00000-of-00001.parquet")
    (folder / "README.md").write_text(
        "---\nlicense: cc-by-4.0\nconfigs:\n- config_name: clean\n  data_files:\n"
        "  - split: test.clean\n    path: data/test.clean/test.clean*.parquet\n---\n"
    )
    return folder


def make_seedtts(folder: Path, count: int = 3) -> Path:
    """The English half of Seed-TTS-eval; the list itself."""
    (folder / "prompt-wavs").mkdir(parents=True)
    (folder / "wavs").mkdir()
    lines = []
    for recording in recordings(count):
        (folder / "prompt-wavs" / f"common_voice_en_{recording.id}.wav").write_bytes(recording.audio)
        (folder / "wavs" / f"{recording.id}-x.wav").write_bytes(recording.audio)
        lines.append(f"{recording.id}-x|{recording.text}|prompt-wavs/common_voice_en_{recording.id}.wav|Say this.")
    (folder / "meta.lst").write_text("\n".join(lines) + "\n")
    return folder / "meta.lst"


def make_whisper(folder: Path, seed: int = 0) -> Path:
    """A multilingual Whisper of tiny random layers, with a processor and the generation config that go with it."""
    from tokenizers import pre_tokenizers
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
        WhisperTokenizer,
    )  # fmt: skip

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = [
        "<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|de|>", "<|translate|>", "<|transcribe|>",
        "<|startofprev|>", "<|nospeech|>", "<|notimestamps|>", *(f"<|{i * 0.02:.2f}|>" for i in range(1501)),
    ]  # fmt: skip
    tokenizer = WhisperTokenizer(vocab={word: i for i, word in enumerate([*letters, special[0]])}, merges=[])
    tokenizer.add_tokens(special[1:], special_tokens=True)
    ids = {name: tokenizer.convert_tokens_to_ids(name) for name in special}
    extractor = WhisperFeatureExtractor(feature_size=80)
    WhisperProcessor(extractor, tokenizer).save_pretrained(folder)
    config = WhisperConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_target_positions=448,
        decoder_start_token_id=ids["<|startoftranscript|>"], eos_token_id=ids["<|endoftext|>"],
        pad_token_id=ids["<|endoftext|>"], bos_token_id=ids["<|endoftext|>"], begin_suppress_tokens=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        is_multilingual=True, lang_to_id={"<|en|>": ids["<|en|>"], "<|de|>": ids["<|de|>"]},
        task_to_id={"transcribe": ids["<|transcribe|>"], "translate": ids["<|translate|>"]},
        no_timestamps_token_id=ids["<|notimestamps|>"], decoder_start_token_id=ids["<|startoftranscript|>"],
        eos_token_id=ids["<|endoftext|>"], pad_token_id=ids["<|endoftext|>"], max_initial_timestamp_index=50,
        prev_sot_token_id=ids["<|startofprev|>"], max_length=24, return_timestamps=False,
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


def make_wavlm(folder: Path, seed: int = 0) -> Path:
    """A WavLM with an x-vector head, of tiny random layers."""
    from transformers import Wav2Vec2FeatureExtractor, WavLMConfig, WavLMForXVector

    config = WavLMConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, conv_dim=(8,) * 7,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=2, tdnn_dim=(16,) * 5, xvector_output_dim=16,
    )  # fmt: skip
    torch.manual_seed(seed)
    WavLMForXVector(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=False, return_attention_mask=True).save_pretrained(folder)
    return folder
