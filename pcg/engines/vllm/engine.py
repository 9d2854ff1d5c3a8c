"""``engine=vllm``: vLLM decodes a run, with the run's rule instead of vLLM's own (``plugin``).

Requests are given to vLLM ``window`` at a time and decoded with continuous batching, ``concurrency`` of them at once,
in a process of vLLM's own. Acceptance is computed from the number of tokens that each step adds to a request; vLLM's
own counters are recorded too.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import signal
import tempfile
import time
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch

from pcg.config.build import TARGET, is_built
from pcg.config.identity import name_of
from pcg.config.validate import ConfigError
from pcg.constraints import Constraint, up_to
from pcg.decoding.decoder import Decoded
from pcg.decoding.rows import Prompt
from pcg.decoding.statistics import COUNTS, plain_counts
from pcg.engines import speculators
from pcg.engines.engine import INSTALL, Pair, Started
from pcg.engines.settings import rules
from pcg.engines.vllm import allowed, plugin
from pcg.models.checkpoint import resolve_folder
from pcg.models.unloaded import UnloadedHead
from pcg.processes import RUN, exit_when_told_to_end
from pcg.types import Generation

_MODEL = "pcg.models.llama.LlamaLM"  # the only class whose folders vLLM can read
_HEAD = "pcg.models.eagle.EagleLM"
_FOLDERS = f"models that are folders of Llama, Qwen2 or Qwen3 ({_MODEL})"
_OURS = ("model", "speculative_config", "additional_config", "max_num_seqs", "seed", "dtype", "disable_log_stats")
_NOT_OURS = Constraint(
    lambda arguments: not set(arguments) & set(_OURS),
    f"arguments of vllm.LLM other than {', '.join(_OURS)}, which the run sets",
)
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"  # the environment variable that chooses one of vLLM's two runners
# Environment of vLLM that a run needs; the user's own environment has priority.
_DEFAULTS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a forked process would not load plugins
}  # fmt: skip


class Vllm:
    """vLLM as a run's engine; see ``pcg.engines.engine.Engine``.

    Args:
        arguments: passed on to ``vllm.LLM``: ``{max_model_len: 2048, enforce_eager: true}``.
    """

    name: ClassVar[str] = "vllm"

    def __init__(
        self,
        concurrency: Annotated[int, up_to(100_000)] = 8,
        window: Annotated[int, up_to(10_000_000)] = 64,
        arguments: Annotated[Mapping[str, Any], _NOT_OURS] | None = None,
    ) -> None:
        self.concurrency, self.window, self.arguments = concurrency, window, dict(arguments or {})

    @staticmethod
    def version() -> str:
        if importlib.util.find_spec("vllm") is None:
            raise ConfigError([f"engine=vllm: vLLM is not installed: {INSTALL['vllm']}"])
        names = metadata.packages_distributions().get("vllm", ["vllm"])
        chosen = os.environ.get(_RUNNER)
        return f"{names[0]} {metadata.version(names[0])}" + (f", {_RUNNER}={chosen}" if chosen else "")

    @staticmethod
    def problems(config: Mapping[str, Any]) -> list[str]:
        target, draft, grouping = config.get("target"), config.get("draft"), config.get("grouping")
        decoding = config.get("decoding")
        assert isinstance(decoding, Mapping)
        wrong = []
        if is_built(target) and target[TARGET] != _MODEL:
            wrong.append(f"target: engine=vllm supports {_FOLDERS}, not {target[TARGET]}")
        if is_built(draft) and draft[TARGET] not in (_MODEL, _HEAD):
            wrong.append(
                f"draft: engine=vllm supports {_FOLDERS}, and heads that read the target ({_HEAD}), not "
                f"{draft[TARGET]}; draft=none decodes with the target alone"
            )
        if decoding.get("repetition_penalty", 1.0) != 1.0:
            wrong.append("decoding.repetition_penalty: vLLM's counts text tokens too, unlike our loop's; set it to 1.0")
        if decoding.get("ras") is not None:
            wrong.append("decoding.ras: vLLM does not support it; set it to null")
        wrong += _problems_of_drafts(decoding, grouping) if is_built(draft) else []
        if config.get("devices", 1) != 1 or ":" in str(config.get("device")):
            wrong.append("device, devices: engine=vllm uses one visible device; choose it by CUDA_VISIBLE_DEVICES")
        return wrong

    def start(self, pair: Pair) -> Started:
        return _Served(self, pair)


def _problems_of_drafts(decoding: Mapping[str, Any], grouping: Any) -> list[str]:
    """Error messages for settings that vLLM does not support with a draft."""
    problems = []
    for key, only in (("mode", "speculative"), ("candidates", 1), ("top_k", None), ("top_p", 1.0)):
        if decoding.get(key, only) != only:
            why = "vLLM's draft supports only a temperature" if key.startswith("top") else "vLLM verifies only chains"
            problems.append(f"decoding.{key}={decoding[key]}: {why}; set it to {'null' if only is None else only}")
    if is_built(grouping):
        name = name_of(grouping)
        if name not in rules():
            supported = ", ".join(sorted(rules()))
            problems.append(f"grouping={name} needs what vLLM does not give; engine=vllm supports {supported}")
        elif decoding.get("temperature") == 0 and name != "exact":
            problems.append(f"decoding.temperature=0: vLLM then decodes exactly, not by {name}; set grouping=exact")
    return problems


class _Served:
    """A decoder that runs vLLM. After a failure the next ``decode`` starts vLLM again."""

    def __init__(self, engine: Vllm, pair: Pair) -> None:
        if pair.draft is not None and not torch.equal(pair.target.ids, pair.draft.ids):
            raise ConfigError(["draft: engine=vllm needs a draft with the target's token ids; this draft's differ"])
        self._engine, self._pair = engine, pair
        self._speech = {int(token): index for index, token in enumerate(pair.target.ids.tolist())}
        self._end = int(pair.target.ids[-1])
        self._names = itertools.count()
        self._llm: Any = None
        self._running()  # an error at the start fails the run, not an utterance

    def decode(self, prompts: Sequence[Prompt], max_tokens: int, alone: bool = False) -> Decoded:
        """Raises ValueError for a prompt that is too long, and for a token that is not speech."""
        if alone and self._pair.draft is not None:
            raise ValueError("engine=vllm with a draft does not decode the target alone: use a run with draft=none")
        ids = [self._pair.target.prompt(prompt.utterance, prompt.speech).tolist() for prompt in prompts]
        llm = self._running()
        longest, most = max(map(len, ids)), llm.llm_engine.model_config.max_model_len
        if longest + max_tokens > most:
            raise ValueError(f"a prompt of {longest} and {max_tokens} speech tokens exceed vLLM's {most} positions")
        before = counted(llm) if self._pair.draft else {}
        began = time.perf_counter()
        try:
            tokens_of_rows, blocks, ended = self._steps(llm, ids, max_tokens)
        except BaseException:
            self.close()  # its state is unknown
            raise
        seconds = time.perf_counter() - began
        counters = {key: value - before[key] for key, value in counted(llm).items()} if self._pair.draft else None
        generations = [
            self._generation(tokens, steps, end)
            for tokens, steps, end in zip(tokens_of_rows, blocks, ended, strict=True)
        ]
        return Decoded(generations, {"engine": seconds}, {}, counters)

    def _running(self) -> Any:
        if self._llm is None:
            exit_when_told_to_end()
            self._llm = _started(self._engine, self._pair)
            self._stop = weakref.finalize(self, self._llm.llm_engine.engine_core.shutdown)  # ends with us
        return self._llm

    def close(self) -> None:
        if self._llm is not None:
            self._stop()
            self._llm = None

    def _steps(
        self, llm: Any, ids: Sequence[list[int]], max_tokens: int
    ) -> tuple[list[list[int]], list[list[int]], list[bool]]:
        """For each prompt its tokens, how many each step added, and whether the last one is end-of-speech."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = self._pair.sampling
        params = SamplingParams(
            temperature=sampling.temperature, top_k=sampling.top_k or 0, top_p=sampling.top_p, max_tokens=max_tokens,
            stop_token_ids=[self._end], ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA,
        )  # fmt: skip
        names = {f"pcg-{next(self._names)}": row for row in range(len(ids))}
        for name, row in names.items():
            llm.llm_engine.add_request(name, {"prompt_token_ids": ids[row]}, params)
        tokens_of_rows: list[list[int]] = [[] for _ in ids]
        blocks: list[list[int]] = [[] for _ in ids]
        while llm.llm_engine.has_unfinished_requests():
            for out in llm.llm_engine.step():
                row, new = names[out.request_id], list(out.outputs[0].token_ids)
                tokens_of_rows[row] += new
                if new:
                    blocks[row].append(len(new))
        return tokens_of_rows, blocks, [tokens[-1:] == [self._end] for tokens in tokens_of_rows]

    def _generation(self, tokens: Sequence[int], blocks: Sequence[int], ended: bool) -> Generation:
        strange = [token for token in tokens if token not in self._speech]
        if strange:
            raise ValueError(f"vLLM sampled token {strange[0]}, which is not speech, although only speech was allowed")
        speech = torch.tensor([self._speech[token] for token in tokens[: len(tokens) - ended]], dtype=torch.int64)
        if self._pair.draft is None:
            plain = Generation(speech, ended, kinds=("plain",) * len(speech))
            return Generation(speech, ended, plain_counts(plain), kinds=plain.kinds)
        counts, by_position = counted_blocks(blocks, self._pair.gamma)
        return Generation(speech, ended, counts, by_position)


def counted_blocks(blocks: Sequence[int], gamma: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Counts of a request (``pcg.decoding.statistics``) from the tokens that each of its steps added.

    The first step is the pass over the prompt, which tests no draft: its token counts as a bonus, at the end of an
    empty block. The last round may have been cut, so its last token may or may not be a draft's: only its round and its
    emitted tokens are counted.

    Args:
        blocks: first 1, then 1 to gamma + 1 each.
    """
    rounds, whole = blocks[1:], blocks[1:-1]
    kept = [size - 1 for size in whole]
    by_position = tuple(sum(size > position for size in kept) for position in range(gamma))
    counts: dict[str, Any] = dict.fromkeys(COUNTS, 0) | {
        "rounds": len(rounds),
        "target_passes": len(blocks),
        "draft_passes": gamma * len(rounds),
        "drafted": gamma * len(rounds),
        "tested": sum(min(size, gamma) for size in whole),
        "accepted": sum(kept),
        "group_only_accepted": None,
        "recovered": sum(size <= gamma for size in whole),
        "bonus": sum(size > gamma for size in whole) + 1,
        "emitted": sum(blocks),
    }
    return counts, by_position


def _started(engine: Vllm, pair: Pair) -> Any:
    """Starts ``vllm.LLM`` with the pair.

    Raises:
        RuntimeError: the plugin is not loaded, or vLLM runs on another device than the run.
    """
    arguments: dict[str, Any] = {
        "skip_tokenizer_init": True, "dtype": pair.dtype, "max_num_seqs": engine.concurrency, "seed": pair.seed,
        "disable_log_stats": False,
        "additional_config": {allowed.KEY: allowed.ranges_of(pair.target.ids)},  # only speech, as in our loop
        "enable_prefix_caching": False,  # otherwise the warm-up would speed up the timed prompts
        **engine.arguments,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch, _environment(pair.threads):
        if pair.draft is not None:
            arguments["speculative_config"] = {
                **_drafting(pair, Path(scratch)), "num_speculative_tokens": pair.gamma,
                "draft_sample_method": "probabilistic",
            }  # fmt: skip
            arguments["additional_config"] |= {plugin.KEY: {**pair.settings, **_groups(pair, Path(scratch))}}
        from vllm import LLM
        from vllm.platforms import current_platform

        device, has = pair.target.device.type, current_platform.device_type
        if device != has:
            raise RuntimeError(f"device={device}: this vLLM runs on {has}; set device={has}")
        llm = LLM(str(resolve_folder(pair.target.path)), **arguments)  # has read the groups when it returns
    if not plugin.registered():
        raise RuntimeError(
            "vLLM has not loaded the plugin pcg, so its own rule would decide; add pcg to VLLM_PLUGINS, or unset it"
        )
    return llm


def _drafting(pair: Pair, scratch: Path) -> dict[str, str]:
    """The draft as settings of vLLM; a head that reads the target is written to ``scratch`` in vLLM's format.

    Raises:
        ValueError: it reads states that vLLM does not pass to drafts.
    """
    assert pair.draft is not None
    if not isinstance(pair.draft, UnloadedHead):
        return {"method": "draft_model", "model": str(resolve_folder(pair.draft.path))}
    folder = scratch / "draft"
    speculators.write(pair.draft.path, pair.target.path, pair.target.ids.cpu(), pair.gamma, folder)
    return {"method": "eagle3", "model": str(folder)}


def _groups(pair: Pair, scratch: Path) -> dict[str, str]:
    """Writes the rule's groups over all tokens of the target to a file; empty for a rule without groups."""
    table = getattr(pair.rule, "groups", None)
    if table is None:
        return {}
    file = scratch / "groups.safetensors"
    table.to("cpu").in_vocabulary(pair.target.ids.cpu(), pair.target.rows).save(file)
    return {"groups": str(file)}


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """The environment in which vLLM's process starts: the run's threads, and SIGINT blocked, since after Ctrl-C a run
    finishes its batch."""
    mine = {**_DEFAULTS, **{key: os.environ[key] for key in _DEFAULTS if key in os.environ}}
    mine |= {"OMP_NUM_THREADS": str(threads), RUN: str(os.getpid())}
    before = {key: os.environ.get(key) for key in mine}
    os.environ.update(mine)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


def counted(llm: Any) -> dict[str, int]:
    """vLLM's own counters of drafts since it started. ``tested`` is derived: a round tests its first draft, and one
    more after each kept draft except the last."""
    metrics = {metric.name.removeprefix("vllm:spec_decode_num_"): metric for metric in llm.get_metrics()}
    if "drafts" not in metrics:
        return dict.fromkeys(("rounds", "drafted", "tested", "accepted"), 0)
    by_position, rounds = metrics["accepted_tokens_per_pos"].values, int(metrics["drafts"].value)
    return {
        "rounds": rounds, "drafted": int(metrics["draft_tokens"].value), "tested": rounds + sum(by_position[:-1]),
        "accepted": sum(by_position),
    }  # fmt: skip
