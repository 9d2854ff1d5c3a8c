"""Our decoding beside transformers' on the same weights: the same prompts, gamma, sampling and process, in turns.

Tokens a second count prefill, as ``generate`` cannot be timed without it; speed-up, its ideal and shares of a round
are of decoding alone. transformers samples from its whole vocabulary, ours from the speech vocabulary.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from pcg import constraints
from pcg.config import validate
from pcg.config.build import TARGET, build, is_built
from pcg.config.run import parse
from pcg.config.settings import Decoding
from pcg.constraints import FROM_1
from pcg.decoding.rows import Prompt
from pcg.decoding.voice import voice_tokens
from pcg.interfaces import Rule, TokenLM
from pcg.report.tables import console, rich_table
from pcg.results import environment
from pcg.results.records import write_json
from pcg.results.timing import speedup
from pcg.runner.composition import Composition, load
from pcg.runner.loading import with_dataset
from pcg.studies.timing import Method, Timed, against, in_turns, own_method, total

CLOCKS: Mapping[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time}
log = logging.getLogger(__name__)
_KEYS = {"repeats": Annotated[int, FROM_1], "clock": Literal["wall", "cpu"]}  # of conf/bench.yaml and not of a run
_THEIRS = "transformers, "
_COLUMNS = {
    "tokens/s": "tokens_per_second", "x transformers": "over_transformers", "tau": "tau", "speed-up": "speedup",
    "of ideal": "of_ideal", "rule / exact's": "rule_over_exact",
}  # fmt: skip
_SHARES = {"of a round: draft": "draft", "target": "target", "rule": "rule", "loop": "other"}


def check(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists everything that is wrong with conf/bench.yaml."""
    problems = constraints.problems(config, _KEYS)
    if not is_built(config["draft"]):
        problems.append("draft is required: pcg bench draft=NAME")
    problems += [
        f"decoding.{key}: pcg bench does not support it, since transformers does not sample so; set it to null"
        for key in ("penalty_window", "ras")
        if config["decoding"].get(key) is not None
    ]
    validate.refuse(problems, lambda: validate.check(_run_of(config)))


def _run_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The config of the run that is compared."""
    run = {key: value for key, value in config.items() if key not in _KEYS}
    return run | {"metrics": {}, "logger": None, "max_failures": 0}


def compare(config: Mapping[str, Any]) -> Path:
    """Time every contestant on every prompt, write ``outputs/<study>/bench.json`` and show the table.

    Returns:
        The JSON file.
    """
    check(config)
    run = with_dataset(parse(_run_of(config)))
    torch.set_num_threads(run.settings.threads)
    composed, decoding = load(run), run.decoding
    assert composed.rule is not None
    now = CLOCKS[config["clock"]]
    exact, graphs = build({TARGET: "pcg.acceptance.exact.Exact"}), getattr(composed.rule, "graphs", None)
    rules: dict[str, Any] = {"exact": exact if graphs is None else graphs.of_rule(exact), run.method: composed.rule}
    methods: dict[str, Method] = {"target alone": own(composed, None, decoding, now)}
    methods |= {name: own(composed, rule, decoding, now) for name, rule in rules.items()}
    methods |= {_THEIRS + name: method for name, method in transformers(composed, decoding, now).items()}
    times = in_turns(methods, prompts(composed), config["repeats"], run.settings.seed)
    values = {
        "schema": 1,
        "config": run.values,
        "clock": config["clock"],
        **environment.about(composed.device),
        "contestants": {name: summary(name, times) for name in methods},
    }
    path = run.settings.study_folder / "bench.json"
    write_json(path, values)
    title = f"gamma {decoding.gamma}, one utterance at a time, {config['clock']} time"
    rows = [_cells(name, figures) for name, figures in values["contestants"].items()]
    screen = console(140)
    screen.print(rich_table(title, ("method", *_COLUMNS, *_SHARES), rows))
    screen.print(f"-> {path}")
    return path


def prompts(composed: Composition[TokenLM]) -> Iterator[list[Prompt]]:
    """Each prompt as a batch of its own."""
    for utterance in composed.dataset:
        yield [Prompt(utterance, voice_tokens(utterance, composed.codec, composed.target.end))]


def own(composed: Composition[TokenLM], rule: Rule | None, decoding: Decoding, now: Callable[[], float]) -> Method:
    """Our loop with this rule; without one, the target alone."""
    return own_method(
        composed.target, composed.draft, rule, gamma=decoding.gamma, sampling=decoding.sampling,
        max_tokens=decoding.max_tokens, device=composed.device, now=now,
    )  # fmt: skip


def transformers(composed: Composition[TokenLM], decoding: Decoding, now: Callable[[], float]) -> dict[str, Method]:
    """``generate`` with the target alone, and assisted by the draft with gamma tokens in every round.

    A draft that transformers has no model for (one that reads the target, n-grams) is timed in our loop only.
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

    def method(assistant: Any) -> Method:
        def decode(batch: Sequence[Prompt], seed: int) -> Timed:
            [prompt] = batch
            ids = composed.target.prompt(prompt.utterance, prompt.speech).unsqueeze(0)
            torch.manual_seed(seed)
            began = now()
            output: Tensor = target.generate(
                ids, attention_mask=torch.ones_like(ids), generation_config=generation, assistant_model=assistant
            )
            return Timed(output.shape[1] - ids.shape[1], {"whole": now() - began})

        return decode

    methods = {"target alone": method(None)}
    if not hasattr(composed.draft, "folder"):
        log.info("%s is timed in our loop only: transformers has no such model", type(composed.draft).__name__)
        return methods
    draft = load(composed.draft)
    draft.generation_config.num_assistant_tokens = decoding.gamma
    draft.generation_config.num_assistant_tokens_schedule = "constant"
    draft.generation_config.assistant_confidence_threshold = 0.0
    return methods | {"assisted": method(draft)}


def summary(name: str, times: Mapping[str, Sequence[Timed]]) -> dict[str, Any]:
    """Figures of one contestant; transformers' have tokens per second only."""
    summed = total(times[name])
    figures: dict[str, Any] = {"tokens_per_second": summed.tokens / summed.whole}
    if name.startswith(_THEIRS):
        return figures
    peer = _THEIRS + ("target alone" if name == "target alone" else "assisted")
    if peer in times:
        theirs, ours = ([(one.whole, one.tokens) for one in times[which]] for which in (peer, name))
        figures |= speedup(theirs, ours).named("over_transformers")
    if name == "target alone":
        return figures
    compared = against(times[name], times["target alone"])
    of_round, exact = compared.pop("seconds_of_round"), total(times["exact"])
    return {
        **figures,
        **compared,
        "milliseconds": {part: 1000 * spent for part, spent in of_round.items()},
        "rule_over_exact": of_round["rule"] / (exact.seconds["rule"] / exact.passes["target"]),
    }


def _cells(name: str, figures: Mapping[str, Any]) -> list[str]:
    shares = figures.get("shares", {})
    shown = [f"{shares[part]:.1%}" if part in shares else "" for part in _SHARES.values()]
    return [name, *(_cell(figures, key) for key in _COLUMNS.values()), *shown]


def _cell(figures: Mapping[str, Any], key: str) -> str:
    if key not in figures:
        return ""
    text = f"{figures[key]:.0f}" if figures[key] >= 100 else f"{figures[key]:.2f}"
    interval = figures.get(f"{key}_ci95")
    return text if interval is None else f"{text} ({interval[0]:.2f}-{interval[1]:.2f})"
