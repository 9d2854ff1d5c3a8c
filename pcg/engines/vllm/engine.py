"""``engine=vllm``: runs of the framework decoded by vLLM, its rule in the place of vLLM's own (``plugin``).

Requests are handed over ``window`` at a time and decoded with continuous batching, ``concurrency`` of them at once, in
a process of vLLM's own. What was kept of a draft is read from how many tokens each step adds to a request; vLLM's own
counters are recorded beside it.
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

_MODEL = "pcg.models.llama.LlamaLM"  # whose folders vLLM reads; of others it would want another class, or cannot
_HEAD = "pcg.models.eagle.EagleLM"
_FOLDERS = f"models that are folders of Llama, Qwen2 or Qwen3 ({_MODEL})"
_OURS = ("model", "speculative_config", "additional_config", "max_num_seqs", "seed", "dtype", "disable_log_stats")
_NOT_OURS = Constraint(
    lambda arguments: not set(arguments) & set(_OURS),
    f"arguments of vllm.LLM other than {', '.join(_OURS)}, which the run gives",
)
_RUNNER = "VLLM_USE_V2_MODEL_RUNNER"  # which of vLLM's two decodes, where it is not vLLM that chooses
# Of vLLM's own that a run needs otherwise than it is; what the user's environment says goes before.
_DEFAULTS = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # a fork would think that it has loaded plugins
}  # fmt: skip


class Vllm:
    """vLLM as a run's engine; see ``pcg.engines.engine.Engine``.

    Args:
        arguments: of ``vllm.LLM``, as they are: ``{max_model_len: 2048, enforce_eager: true}``.
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
        found = []
        if is_built(target) and target[TARGET] != _MODEL:
            found.append(f"target: engine=vllm runs {_FOLDERS}, not {target[TARGET]}")
        if is_built(draft) and draft[TARGET] not in (_MODEL, _HEAD):
            found.append(
                f"draft: engine=vllm drafts with {_FOLDERS}, and heads that read the target ({_HEAD}), not with "
                f"{draft[TARGET]}; draft=none runs the target alone"
            )
        if decoding.get("repetition_penalty", 1.0) != 1.0:
            found.append("decoding.repetition_penalty: of vLLM it counts text too, of our loop speech alone; want 1.0")
        if decoding.get("ras") is not None:
            found.append("decoding.ras: vLLM does not sample so; set it to null")
        found += _problems_of_drafts(decoding, grouping) if is_built(draft) else []
        if config.get("devices", 1) != 1 or ":" in str(config.get("device")):
            found.append("device, devices: engine=vllm takes the one that it sees; CUDA_VISIBLE_DEVICES chooses it")
        return found

    def start(self, pair: Pair) -> Started:
        return _Served(self, pair)


def _problems_of_drafts(decoding: Mapping[str, Any], grouping: Any) -> list[str]:
    """What vLLM cannot do with a draft, by the key that asks for it."""
    found = []
    for key, only in (("mode", "speculative"), ("candidates", 1), ("top_k", None), ("top_p", 1.0)):
        if decoding.get(key, only) != only:
            why = "vLLM's draft knows the temperature alone" if key.startswith("top") else "vLLM verifies chains"
            found.append(f"decoding.{key}={decoding[key]}: {why}; want {'null' if only is None else only}")
    if is_built(grouping):
        name = name_of(grouping)
        if name not in rules():
            found.append(f"grouping={name}: asks for what vLLM does not give; it can do {', '.join(sorted(rules()))}")
        elif decoding.get("temperature") == 0 and name != "exact":
            found.append(f"decoding.temperature=0: vLLM decodes exactly there, whatever the rule; not {name} but exact")
    return found


class _Served:
    """A pair, served. After it has failed the engine is started anew for what comes next."""

    def __init__(self, engine: Vllm, pair: Pair) -> None:
        if pair.draft is not None and not torch.equal(pair.target.ids, pair.draft.ids):
            raise ConfigError(["draft: engine=vllm needs a draft that has the target's token ids; these differ"])
        self._engine, self._pair = engine, pair
        self._speech = {int(token): place for place, token in enumerate(pair.target.ids.tolist())}
        self._end = int(pair.target.ids[-1])
        self._names = itertools.count()
        self._llm: Any = None
        self._running()  # what keeps it from starting is the run's fault, not an utterance's

    def decode(self, prompts: Sequence[Prompt], max_tokens: int, alone: bool = False) -> Decoded:
        """Raises ValueError for a prompt that is too long, and for a token that is not of speech."""
        if alone and self._pair.draft is not None:
            raise ValueError("an engine that has a draft does not decode without it: draft=none is a run of its own")
        ids = [self._pair.target.prompt(each.utterance, each.speech).tolist() for each in prompts]
        llm = self._running()
        longest, most = max(map(len, ids)), llm.llm_engine.model_config.max_model_len
        if longest + max_tokens > most:
            raise ValueError(f"a prompt of {longest} tokens and {max_tokens} to say are more than the {most} of vLLM")
        before = counted(llm) if self._pair.draft else {}
        began = time.perf_counter()
        try:
            said, blocks, ended = self._steps(llm, ids, max_tokens)
        except BaseException:
            self.close()  # what state it is in nobody knows
            raise
        seconds = time.perf_counter() - began
        counters = {key: value - before[key] for key, value in counted(llm).items()} if self._pair.draft else None
        generations = [
            self._generation(tokens, steps, end) for tokens, steps, end in zip(said, blocks, ended, strict=True)
        ]
        return Decoded(generations, {"engine": seconds}, {}, counters)

    def _running(self) -> Any:
        if self._llm is None:
            exit_when_told_to_end()
            self._llm = _started(self._engine, self._pair)
            self._stop = weakref.finalize(self, self._llm.llm_engine.engine_core.shutdown)  # its processes go with us
        return self._llm

    def close(self) -> None:
        if self._llm is not None:
            self._stop()
            self._llm = None

    def _steps(
        self, llm: Any, ids: Sequence[list[int]], max_tokens: int
    ) -> tuple[list[list[int]], list[list[int]], list[bool]]:
        """Of each prompt its tokens, how many of them each step gave, and whether end-of-speech was the last."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = self._pair.sampling
        params = SamplingParams(
            temperature=sampling.temperature, top_k=sampling.top_k or 0, top_p=sampling.top_p, max_tokens=max_tokens,
            stop_token_ids=[self._end], ignore_eos=True, detokenize=False, output_kind=RequestOutputKind.DELTA,
        )  # fmt: skip
        names = {f"pcg-{next(self._names)}": place for place in range(len(ids))}
        for name, place in names.items():
            llm.llm_engine.add_request(name, {"prompt_token_ids": ids[place]}, params)
        said: list[list[int]] = [[] for _ in ids]
        blocks: list[list[int]] = [[] for _ in ids]
        while llm.llm_engine.has_unfinished_requests():
            for out in llm.llm_engine.step():
                place, new = names[out.request_id], list(out.outputs[0].token_ids)
                said[place] += new
                if new:
                    blocks[place].append(len(new))
        return said, blocks, [tokens[-1:] == [self._end] for tokens in said]

    def _generation(self, tokens: Sequence[int], blocks: Sequence[int], ended: bool) -> Generation:
        strange = [token for token in tokens if token not in self._speech]
        if strange:
            raise ValueError(f"vLLM said token {strange[0]}, which is no speech: what it may say was not heeded")
        speech = torch.tensor([self._speech[token] for token in tokens[: len(tokens) - ended]], dtype=torch.int64)
        if self._pair.draft is None:
            plain = Generation(speech, ended, kinds=("plain",) * len(speech))
            return Generation(speech, ended, plain_counts(plain), kinds=plain.kinds)
        counts, by_position = counted_blocks(blocks, self._pair.gamma)
        return Generation(speech, ended, counts, by_position)


def counted_blocks(blocks: Sequence[int], gamma: int) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Counts of a request (``pcg.decoding.statistics``) from the tokens that each of its steps added.

    The first step is the prompt's own pass, which tests no draft: its token counts as a bonus, the end of an empty
    block. Of the last round nobody can tell whether its last token was a draft's: it may have been cut there. It counts
    as a round whose tokens were emitted, and for no more.

    Args:
        blocks: 1 and then 1 to gamma + 1 each.
    """
    rounds, whole = blocks[1:], blocks[1:-1]
    kept = [size - 1 for size in whole]
    by_position = tuple(sum(size > place for size in kept) for place in range(gamma))
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
    """``vllm.LLM`` with the pair.

    Raises:
        RuntimeError: the plugin is not loaded, or vLLM runs on another device than the run.
    """
    arguments: dict[str, Any] = {
        "skip_tokenizer_init": True, "dtype": pair.dtype, "max_num_seqs": engine.concurrency, "seed": pair.seed,
        "disable_log_stats": False,
        "additional_config": {allowed.KEY: allowed.ranges_of(pair.target.ids)},  # our loop has logits of speech alone
        "enable_prefix_caching": False,  # or the warm-up would have done the prompts of what is timed
        **engine.arguments,
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as place, _environment(pair.threads):
        if pair.draft is not None:
            arguments["speculative_config"] = {
                **_drafting(pair, Path(place)), "num_speculative_tokens": pair.gamma,
                "draft_sample_method": "probabilistic",
            }  # fmt: skip
            arguments["additional_config"] |= {plugin.KEY: {**pair.settings, **_groups(pair, Path(place))}}
        from vllm import LLM
        from vllm.platforms import current_platform

        wanted, found = pair.target.device.type, current_platform.device_type
        if wanted != found:
            raise RuntimeError(f"device={wanted}: this vLLM runs on {found}; device must say so")
        llm = LLM(str(resolve_folder(pair.target.path)), **arguments)  # has read the groups when it returns
    if not plugin.registered():
        raise RuntimeError(
            "vLLM has not loaded the plugin pcg, so its own rule would decide, of text too; does VLLM_PLUGINS name it?"
        )
    return llm


def _drafting(pair: Pair, place: Path) -> dict[str, str]:
    """The draft in vLLM's words; a head that reads the target as a folder that vLLM reads, in ``place``.

    Raises:
        ValueError: it reads states that vLLM does not give.
    """
    assert pair.draft is not None
    if not isinstance(pair.draft, UnloadedHead):
        return {"method": "draft_model", "model": str(resolve_folder(pair.draft.path))}
    folder = place / "draft"
    speculators.write(pair.draft.path, pair.target.path, pair.target.ids.cpu(), pair.gamma, folder)
    return {"method": "eagle3", "model": str(folder)}


def _groups(pair: Pair, place: Path) -> dict[str, str]:
    """The rule's groups over all tokens of the target, in a file; nothing for a rule without groups."""
    table = getattr(pair.rule, "groups", None)
    if table is None:
        return {}
    file = place / "groups.safetensors"
    table.to("cpu").in_vocabulary(pair.target.ids.cpu(), pair.target.rows).save(file)
    return {"groups": str(file)}


@contextmanager
def _environment(threads: int) -> Iterator[None]:
    """While vLLM's process begins: the run's threads, and deaf to Ctrl-C, after which a run finishes its batch."""
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
    """vLLM's own counters of drafts since the engine began. ``tested`` is derived: a round tests one draft, and one
    more after each that it keeps but the last."""
    found = {metric.name.removeprefix("vllm:spec_decode_num_"): metric for metric in llm.get_metrics()}
    if "drafts" not in found:
        return dict.fromkeys(("rounds", "drafted", "tested", "accepted"), 0)
    by_position, rounds = found["accepted_tokens_per_pos"].values, int(found["drafts"].value)
    return {
        "rounds": rounds, "drafted": int(found["draft_tokens"].value), "tested": rounds + sum(by_position[:-1]),
        "accepted": sum(by_position),
    }  # fmt: skip
