"""vLLM with the plugin on the bundled pair, and our own loop on the same prompts; needs vLLM.

Alone (``python serving.py first|second|ours SETTINGS PROMPTS TOKENS [eagle]``) it prints as JSON what was kept. The
second runner needs Triton, of which a CPU has the interpreter: it is slow, and told here that its masks are booleans.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
GAMMA, TEMPERATURE, TOGETHER = 3, 0.8, 8


def interpret() -> None:
    """Before vLLM is imported: the second runner, its kernels by Triton's interpreter."""
    os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    import triton.backends
    from triton.runtime.interpreter import InterpreterBuilder

    triton.backends.backends["cpu"] = SimpleNamespace(
        driver=SimpleNamespace(is_active=lambda: False)
    )  # or none is taken

    def of_booleans(name: str, place: int) -> None:
        own = getattr(InterpreterBuilder, name)

        def called(self: Any, *arguments: Any) -> Any:
            arguments[place].data = arguments[place].data.astype(bool)
            return own(self, *arguments)

        setattr(InterpreterBuilder, name, called)

    of_booleans("create_masked_load", 1)
    of_booleans("create_masked_store", 2)


def prompts(count: int) -> list[dict[str, Any]]:
    """Utterances of the bundled set, with the ids that lead up to their speech."""
    from pcg.codecs.bundled import BundledCodec
    from pcg.data.bundled import Bundled
    from pcg.decoding.voice import voice_tokens
    from pcg.models.phonemes import Phonemes

    text, codec = Phonemes("bundled:target"), BundledCodec("bundled:codec", iterations=1, device="cpu")
    found = []
    for utterance in Bundled(count):
        speech = voice_tokens(utterance, codec, codec.codebook_size)
        found.append({"utterance": utterance, "speech": speech, "ids": text.prompt(utterance, speech).tolist()})
    return found


def exported(place: Path) -> dict[str, Any]:
    """vLLM's words for it."""
    from pcg.engines import speculators
    from pcg.models.phonemes import Phonemes

    ids = Phonemes("bundled:target").speech_ids
    speculators.write("bundled:eagle", "bundled:target", ids, GAMMA, place / "exported")
    told = {"method": "eagle3", "model": str(place / "exported"), "num_speculative_tokens": GAMMA}
    return {"speculative_config": {**told, "draft_sample_method": "probabilistic"}}


def engine(settings: dict[str, Any] | None, **changes: Any) -> Any:
    """A served bundled pair; without settings it is vLLM's own rule."""
    from vllm import LLM

    from pcg.models.checkpoint import resolve_folder

    speculative = {
        "method": "draft_model", "model": str(resolve_folder("bundled:draft")), "num_speculative_tokens": GAMMA,
        "draft_sample_method": "probabilistic",
    }  # fmt: skip
    arguments = {
        "skip_tokenizer_init": True, "dtype": "float32", "enforce_eager": True, "max_model_len": 2048,
        "max_num_seqs": TOGETHER, "seed": 0, "disable_log_stats": False, "speculative_config": speculative,
        "additional_config": {} if settings is None else {"pcg": settings},
    }  # fmt: skip
    return LLM(str(resolve_folder("bundled:target")), **{**arguments, **changes})


def sampling(tokens: int, **changes: Any) -> Any:
    from vllm import SamplingParams

    return SamplingParams(**{
        "temperature": TEMPERATURE, "max_tokens": tokens, "stop_token_ids": [4], "detokenize": False, **changes,
    })  # fmt: skip


def generate(llm: Any, asked: Sequence[dict[str, Any]], params: Any) -> list[Any]:
    return [
        one.outputs[0] for one in llm.generate([{"prompt_token_ids": p["ids"]} for p in asked], params, use_tqdm=False)
    ]


def measured(settings: dict[str, Any], count: int, tokens: int, draft: str = "bundled") -> dict[str, Any]:
    """Acceptance of one engine on the first prompts, by vLLM's counters."""
    from pcg.engines.vllm.engine import counted

    asked = prompts(count)
    with tempfile.TemporaryDirectory() as place:
        llm = engine(settings, **(exported(Path(place)) if draft == "eagle" else {}))
    began = time.perf_counter()
    said = generate(llm, asked, sampling(tokens))
    seconds = time.perf_counter() - began
    counts = counted(llm)
    return {
        **counts, "alpha": counts["accepted"] / counts["tested"], "emitted": sum(len(one.token_ids) for one in said),
        "seconds": round(seconds, 1),
    }  # fmt: skip


def ours(settings: dict[str, Any], count: int, tokens: int, draft: str = "bundled") -> dict[str, Any]:
    """Acceptance of our own loop on them, with its interval over utterances."""
    import torch

    from pcg.acceptance.exact import Exact
    from pcg.acceptance.pcg import PCG
    from pcg.decoding.rows import Batch, Prompt
    from pcg.decoding.speculative import speculative_decode
    from pcg.decoding.statistics import Statistics
    from pcg.groups.cosine import Cosine
    from pcg.metrics.aggregate import ratio
    from pcg.models.eagle import EagleLM
    from pcg.models.llama import LlamaLM
    from pcg.models.phonemes import Phonemes
    from pcg.models.unloaded import UnloadedModel
    from pcg.sampling import Randomness, Sampling, as_keys

    cpu = torch.device("cpu")
    target = LlamaLM("bundled:target", Phonemes("bundled:target"), "float32", "cpu", "speech")
    if draft == "eagle":
        drafting: Any = EagleLM("bundled:eagle", target, "float32", "cpu")
    else:
        drafting = LlamaLM("bundled:draft", Phonemes("bundled:draft"), "float32", "cpu", "speech")
    rule: Any = Exact()
    if settings["rule"] == "pcg":
        vectors = UnloadedModel("bundled:target", target.text.speech_ids)
        rule = PCG(
            Cosine(**settings["groups"]).build(
                vectors.embeddings("input"), torch.arange(target.vocab_size) < target.end
            )
        )
    asked = [Prompt(each["utterance"], each["speech"]) for each in prompts(count)]
    generations = []
    for start in range(0, count, TOGETHER):
        batch = asked[start : start + TOGETHER]
        randomness = Randomness(0, as_keys([prompt.utterance.id for prompt in batch], cpu))
        statistics = Statistics(GAMMA, rule, randomness)
        generations += statistics.annotate(
            speculative_decode(
                target,
                drafting,
                rule,
                Batch(batch, Sampling(TEMPERATURE), tokens, randomness),
                gamma=GAMMA,
                observer=statistics,
            )
        )
    columns = [[generation.counts[name] for generation in generations] for name in ("accepted", "tested")]
    found = ratio(*columns)
    return {"tested": sum(columns[1]), "accepted": sum(columns[0]), "alpha": found.value, "ci95": found.ci95}


if __name__ == "__main__":
    runner, told, count, tokens, *draft = sys.argv[1:]
    if runner == "second":
        interpret()
    decode = ours if runner == "ours" else measured
    print("\n" + json.dumps(decode(json.loads(told), int(count), int(tokens), *draft)))
