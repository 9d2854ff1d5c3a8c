"""Our decoding beside transformers' on the same weights: the same prompts, gamma, sampling and process, in turns.

Tokens a second count prefill, as ``generate`` cannot be timed without it; speed-up, its ideal and shares of a round
are of decoding alone. transformers samples from its whole vocabulary, ours from the speech vocabulary.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from pcg import constraints
from pcg.config import validate
from pcg.config.build import TARGET, build, is_built
from pcg.config.identity import method
from pcg.config.settings import Decoding, Settings
from pcg.config.validate import ConfigError
from pcg.constraints import FROM_1
from pcg.decoding import autoregressive
from pcg.decoding.clock import Clock
from pcg.decoding.rows import Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.decoding.voice import voice_tokens
from pcg.interfaces import Rule
from pcg.metrics.aggregate import Estimate, paired_ratio
from pcg.results import environment
from pcg.results.records import write_atomically
from pcg.runner import parts
from pcg.runner.parts import Parts
from pcg.sampling import Randomness, key_of

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
log = logging.getLogger(__name__)
_KEYS = {"repeats": Annotated[int, FROM_1], "clock": Literal["wall", "cpu"]}  # of conf/bench.yaml, which runs have not
_THEIRS = "transformers, "


def check(config: Mapping[str, Any]) -> Settings:
    """Settings of conf/bench.yaml.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    problems = list(constraints.problems(config, _KEYS).values())
    if not is_built(config["draft"]):
        problems.append("draft: there must be one to speculate with")
    run = {key: value for key, value in config.items() if key not in _KEYS}
    try:
        settings = validate.check(run | {"metrics": {}, "logger": None, "max_failures": 0})
    except ConfigError as error:
        raise ConfigError([*problems, *error.problems]) from None
    if problems:
        raise ConfigError(problems)
    return settings


@dataclass(frozen=True)
class Timed:
    """One prompt decoded once: tokens, end-of-speech included, and seconds; of ours also seconds and calls by part."""

    tokens: int
    seconds: float
    by_part: Mapping[str, float] | None = None
    calls: Mapping[str, int] | None = None

    @property
    def decode_seconds(self) -> float:
        assert self.by_part is not None
        return sum(seconds for part, seconds in self.by_part.items() if part != "prefill")


Contestant = Callable[[Prompt, int], Timed]  # of a prompt and a seed


def compare(config: Mapping[str, Any]) -> Path:
    """Time every contestant on every prompt, show the table, write ``outputs/<study>/bench.json``; returns its path."""
    settings = check(config)
    torch.set_num_threads(settings.threads)
    run = parts.identified({**config, "metrics": {}, "logger": None, "max_failures": 0})
    composed, decoding = parts.load(run), Decoding(**settings.decoding)
    assert composed.rule is not None
    now = CLOCKS[config["clock"]]
    exact, graphs = build({TARGET: "pcg.acceptance.exact.Exact"}), getattr(composed.rule, "graphs", None)
    rules: dict[str, Any] = {"exact": exact if graphs is None else graphs.of_rule(exact), method(run): composed.rule}
    contestants: dict[str, Contestant] = {"target alone": alone(composed, decoding, now)}
    contestants |= {name: ours(composed, rule, decoding, now) for name, rule in rules.items()}
    contestants |= {_THEIRS + name: contestant for name, contestant in transformers(composed, decoding, now).items()}
    times = measure(contestants, prompts(composed), config["repeats"], settings.seed)
    values = {
        "schema": 1,
        "config": run,
        "clock": config["clock"],
        "git": environment.git(),
        "versions": environment.versions(),
        "device": environment.device_name(composed.device),
        "contestants": {name: summary(name, times, decoding.gamma) for name in contestants},
    }
    settings.study_folder.mkdir(parents=True, exist_ok=True)
    path = settings.study_folder / "bench.json"
    write_atomically(path, json.dumps(values, indent=1, allow_nan=False))
    console = Console(width=None if Console().is_terminal else 140, markup=False, emoji=False)
    console.print(table(values["contestants"], decoding.gamma, config["clock"]))
    console.print(f"-> {path}")
    return path


def prompts(composed: Parts) -> Iterator[Prompt]:
    for utterance in composed.dataset:
        yield Prompt(utterance, voice_tokens(utterance, composed.codec, composed.target.end))


def measure(
    contestants: Mapping[str, Contestant], said: Iterator[Prompt], repeats: int, seed: int
) -> dict[str, list[Timed]]:
    """Every contestant on every prompt in turns, each turn with another seed. The first warms up and is dropped."""
    times: dict[str, list[Timed]] = {name: [] for name in contestants}
    for prompt in said:
        for repeat in range(repeats + 1):
            for name, decode in contestants.items():
                timed = decode(prompt, seed + repeat)
                if repeat:
                    times[name].append(timed)
    return times


def alone(composed: Parts, decoding: Decoding, now: Callable[[], float]) -> Contestant:
    def decode(prompt: Prompt, seed: int) -> Timed:
        clock = Clock(composed.device, now)
        [said] = autoregressive.decode(
            composed.target,
            [prompt],
            sampling=decoding.sampling,
            max_tokens=decoding.max_tokens,
            randomness=_randomness(composed, prompt, seed),
            clock=clock,
        )
        return _timed(len(said.tokens) + said.finished, clock)

    return decode


def ours(composed: Parts, rule: Rule, decoding: Decoding, now: Callable[[], float]) -> Contestant:
    assert composed.draft is not None
    draft = composed.draft

    def decode(prompt: Prompt, seed: int) -> Timed:
        clock = Clock(composed.device, now)
        [said] = speculative_decode(
            composed.target,
            draft,
            rule,
            [prompt],
            gamma=decoding.gamma,
            sampling=decoding.sampling,
            max_tokens=decoding.max_tokens,
            randomness=_randomness(composed, prompt, seed),
            clock=clock,
        )
        return _timed(len(said.tokens) + said.finished, clock)

    return decode


def transformers(composed: Parts, decoding: Decoding, now: Callable[[], float]) -> dict[str, Contestant]:
    """``generate`` with the target alone, and assisted by the draft with gamma tokens in every round.

    A draft that is no model of transformers' (one that reads the target, n-grams) assists ours only.
    """
    from transformers import AutoModelForCausalLM, GenerationConfig  # the peer; nothing else of ours needs it

    def load(model: Any) -> Any:
        loaded: Any = AutoModelForCausalLM.from_pretrained(model.folder, dtype=torch.float32)
        return loaded.to(composed.device).eval()

    target = load(composed.target)
    sampling = decoding.sampling
    sampled = {"temperature": sampling.temperature, "top_k": sampling.top_k or 0, "top_p": sampling.top_p}
    generation = GenerationConfig(
        do_sample=sampling.temperature > 0,
        **(sampled if sampling.temperature > 0 else {}),
        repetition_penalty=sampling.repetition_penalty,
        max_new_tokens=decoding.max_tokens,
        eos_token_id=int(composed.target.token_ids(torch.tensor(composed.target.end))),
        pad_token_id=0,
    )

    def contestant(assistant: Any) -> Contestant:
        def decode(prompt: Prompt, seed: int) -> Timed:
            ids = composed.target.prompt(prompt.utterance, prompt.speech).unsqueeze(0)
            torch.manual_seed(seed)
            began = now()
            said: Tensor = target.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=generation, assistant_model=assistant
            )
            return Timed(said.shape[1] - ids.shape[1], now() - began)

        return decode

    found = {"target alone": contestant(None)}
    if not hasattr(composed.draft, "folder"):
        log.info("%s assists ours only: transformers has no such model", type(composed.draft).__name__)
        return found
    draft = load(composed.draft)
    draft.generation_config.num_assistant_tokens = decoding.gamma
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    draft.generation_config.assistant_confidence_threshold = 0.0
    return found | {"assisted": contestant(draft)}


def _randomness(composed: Parts, prompt: Prompt, seed: int) -> Randomness:
    return Randomness(seed, torch.tensor([key_of(prompt.utterance.id)], device=composed.device))


def _timed(tokens: int, clock: Clock) -> Timed:
    return Timed(tokens, sum(clock.seconds.values()), clock.seconds, dict(clock.passes))


def summary(name: str, times: Mapping[str, Sequence[Timed]], gamma: int) -> dict[str, Any]:
    """Figures of one contestant; those of decoding alone for ours only."""
    timed = times[name]
    figures: dict[str, Any] = {"tokens_per_second": _total(timed, "tokens") / _total(timed, "seconds")}
    peer = _THEIRS + ("target alone" if name == "target alone" else "assisted")
    if name.startswith(_THEIRS):
        return figures
    if peer in times:
        figures |= _interval("over_transformers", _faster(times[peer], timed, "seconds"))
    if name == "target alone":
        return figures
    seconds = {part: sum(each.by_part[part] for each in timed if each.by_part) for part in timed[0].by_part or {}}
    rounds = sum(each.calls["target"] for each in timed if each.calls)
    decode = sum(seconds.values()) - seconds["prefill"]
    target_1 = _per_pass(times["target alone"], "target")
    tau = _total(timed, "tokens") / rounds
    ideal = ideal_speedup(tau, target_1, gamma * _per_pass(timed, "draft") + _per_pass(timed, "target"))
    speedup = _faster(times["target alone"], timed, "decode_seconds")
    return {
        **figures,
        "tau": tau,
        **_interval("speedup", speedup),
        "ideal_speedup": ideal,
        "of_ideal": speedup.value and speedup.value / ideal,
        "milliseconds": {part: 1000 * spent / rounds for part, spent in seconds.items() if part != "prefill"},
        "shares": {part: spent / decode for part, spent in seconds.items() if part != "prefill"},
        "rule_over_exact": seconds["rule"] / rounds / (_per_pass(times["exact"], "rule")),
    }


def ideal_speedup(tau: float, alone: float, passes: float) -> float:
    """Of a round whose rule, draws and loop cost nothing.

    Args:
        tau: tokens a round.
        alone: seconds of a pass of the target alone, which gives one.
        passes: seconds of the round's passes, of the draft and of the target.
    """
    return tau * alone / passes


def _total(timed: Sequence[Timed], what: str) -> float:
    return sum(getattr(each, what) for each in timed)


def _per_pass(timed: Sequence[Timed], part: str) -> float:
    return sum(each.by_part[part] for each in timed if each.by_part) / sum(
        each.calls[part] for each in timed if each.calls
    )


def _faster(slow: Sequence[Timed], fast: Sequence[Timed], seconds: str) -> Estimate:
    """Seconds a token of the one over those of the other, prompt by prompt."""
    one, other = (
        ([getattr(each, seconds) for each in timed], [each.tokens for each in timed]) for timed in (slow, fast)
    )
    return paired_ratio(one, other)


def _interval(name: str, found: Estimate) -> dict[str, Any]:
    return {name: found.value, f"{name}_ci95": None if found.ci95 is None else list(found.ci95)}


def table(contestants: Mapping[str, Mapping[str, Any]], gamma: int, clock: str) -> Table:
    shown = Table(title=f"gamma {gamma}, one utterance at a time, {clock} time")
    columns = {
        "tokens/s": "tokens_per_second",
        "x transformers": "over_transformers",
        "tau": "tau",
        "speed-up": "speedup",
        "of ideal": "of_ideal",
        "rule / exact's": "rule_over_exact",
    }
    shown.add_column("", no_wrap=True)
    for column in (*columns, "of a round: draft", "target", "rule", "loop"):
        shown.add_column(column, justify="right")
    for name, figures in contestants.items():
        cells = [_cell(figures, key) for key in columns.values()]
        shares = figures.get("shares", {})
        cells += [f"{shares[part]:.1%}" if part in shares else "" for part in ("draft", "target", "rule", "other")]
        shown.add_row(name, *cells)
    return shown


def _cell(figures: Mapping[str, Any], key: str) -> str:
    if key not in figures:
        return ""
    text = f"{figures[key]:.0f}" if figures[key] >= 100 else f"{figures[key]:.2f}"
    interval = figures.get(f"{key}_ci95")
    return text if interval is None else f"{text} ({interval[0]:.2f}-{interval[1]:.2f})"
