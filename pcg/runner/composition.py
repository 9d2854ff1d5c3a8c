"""What a run is composed of: its models, rule, codec, dataset and metrics, checked to fit each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch

from pcg.config.build import TARGET, build
from pcg.config.identity import name_of
from pcg.config.run import Run
from pcg.config.validate import ConfigError
from pcg.decoding.decoder import Decoder, OwnLoop
from pcg.decoding.pair import check_compatible
from pcg.decoding.transport import Movers
from pcg.decoding.tree import BranchingLM, CandidateRule, OutcomeRule
from pcg.engines.engine import Pair
from pcg.engines.tables import unloaded, unloaded_draft
from pcg.files import cache_folder
from pcg.interfaces import Codec, Dataset, Metric, Rule, SpeechModel, StateRule, TokenLM
from pcg.runner.groups import codec_name, group_table
from pcg.runner.loading import as_it_lies, kept, load_codec, load_dataset, metrics_of, release_models
from pcg.runner.movers import movers_of

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=SpeechModel)


@dataclass(frozen=True)
class Composition(Generic[Model]):
    """A run's parts. The models are loaded (``TokenLM``), or an engine holds them (``pcg.models.unloaded``).

    Attributes:
        draft, rule: None for the target alone.
        codec: None where everything is coded already, and nothing is heard.
        movers: None where no earth mover's distance is asked for (``decoding.sound_every``).
    """

    target: Model
    draft: Model | None
    rule: Rule | StateRule | CandidateRule | None
    codec: Codec | None
    dataset: Dataset
    metrics: Mapping[str, Metric]
    device: torch.device
    movers: Movers | None = None


def load(run: Run) -> Composition[TokenLM]:
    """The parts of a run that our own loop decodes, each built once a process.

    Raises:
        ConfigError: parts that do not fit each other.
    """
    kept.drop("engine")  # and its process
    device = run.device
    target: TokenLM = kept.get(
        "target",
        [as_it_lies(run.target), str(device)],
        lambda: build(run.target, device=device),
        holders=("draft", "graphs", "movers"),
    )
    composed = _around(run, target, load_codec(run), _load_draft(run, target))
    rule = composed.rule
    if rule is not None and run.decoding.candidates > 1:
        rule = _with_candidates(rule, run.decoding.candidates, target)
    if rule is not None:
        _check_mode(run.decoding.mode, rule)
    return _compiled(run, replace(composed, rule=rule, movers=_movers(run, composed)))


def serve(run: Run) -> tuple[Composition[Any], Decoder]:
    """The parts of a run that an engine decodes, and the engine, which holds the models.

    Raises:
        ConfigError: parts that do not fit each other, or the engine.
    """
    release_models()
    target = unloaded(run.target, run.device)
    draft = None if run.draft is None else unloaded_draft(run.draft, target)
    composed = _around(run, target, load_codec(run), draft)
    settings = {}
    if run.grouping is not None:
        settings = {key: value for key, value in run.grouping.items() if key not in (TARGET, "groups")}
        settings["rule"] = name_of(run.grouping)
    pair = Pair(
        target=target,
        draft=draft,
        rule=composed.rule,  # type: ignore[arg-type]  # an engine names those that it cannot do before it starts
        settings=settings,
        gamma=run.decoding.gamma,
        sampling=run.decoding.sampling,
        seed=run.settings.seed,
        threads=run.settings.threads,
        dtype=run.target.get("dtype", "auto"),
    )
    assert run.engine is not None
    node = {key: value for key, value in run.engine.items() if key not in ("name", "version")}
    return composed, kept.get("engine", [run.values, run.settings.seed], lambda: build(node).start(pair))


def with_decoder(run: Run) -> tuple[Composition[Any], Decoder]:
    """The parts of a run and what decodes them; raises as ``load`` and ``serve``."""
    if run.engine is not None:
        return serve(run)
    parts, decoding = load(run), run.decoding
    return parts, OwnLoop(
        target=parts.target,
        draft=parts.draft,
        rule=parts.rule,
        sampling=decoding.sampling,
        gamma=decoding.gamma,
        seed=run.settings.seed,
        mode=decoding.mode,
        candidates=decoding.candidates,
        movers=parts.movers,
    )


def _around(run: Run, target: Model, codec: Codec | None, draft: Model | None) -> Composition[Model]:
    """The composition of these models, with the rule as its config has it."""
    _check_vocabularies(target, draft, codec)
    rule = None if draft is None else _rule(run, target, draft, codec)
    return Composition(target, draft, rule, codec, load_dataset(run.dataset), metrics_of(run), run.device)


def _load_draft(run: Run, target: TokenLM) -> TokenLM | None:
    """None without one; the target's own weights where it is its own draft."""
    node = run.draft
    if node is None or node == run.target:
        return None if node is None else target
    key = [as_it_lies(node), as_it_lies(run.target), str(run.device)]  # some drafts hold on to the target
    supplied = {"device": run.device, "vocab_size": target.vocab_size, "target": target}
    return kept.get("draft", key, lambda: build(node, **supplied), holders=("graphs",))


def _check_vocabularies(target: SpeechModel, draft: SpeechModel | None, codec: Codec | None) -> None:
    problems: list[str] = []
    if codec is not None and target.vocab_size != codec.codebook_size + 1:
        problems.append(f"codec: has {codec.codebook_size} tokens, the target speaks {target.vocab_size - 1}")
    if draft is not None:
        try:
            check_compatible(draft, target)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)


def _rule(run: Run, target: SpeechModel, draft: SpeechModel, codec: Codec | None) -> Rule | StateRule:
    """The run's rule, with its groups if it has any."""
    assert run.grouping is not None
    node = {key: value for key, value in run.grouping.items() if key != "groups"}
    groups = run.grouping.get("groups")
    if groups is None:
        return build(node)
    key = [groups, *map(as_it_lies, (run.target, run.draft, run.values["codec"])), str(run.device)]
    described = run.values["codec"], run.values["fingerprints"]
    return build(node, groups=kept.get("groups", key, lambda: group_table(groups, target, draft, codec, *described)))


def _with_candidates(rule: Rule | StateRule | CandidateRule, count: int, target: TokenLM) -> CandidateRule:
    """The rule for ``count`` candidates a position.

    Raises:
        ConfigError: the rule or the target is not made for several.
    """
    problems = []
    if not isinstance(rule, OutcomeRule):
        problems.append(f"grouping: {type(rule).__name__} tests one candidate a position; exact and pcg test several")
    if not isinstance(target, BranchingLM):
        problems.append(f"target: a {type(target).__name__} scores no tree of tokens; target=hf does for Llamas")
    try:
        if not problems:
            return build({TARGET: "pcg.acceptance.candidates.Candidates", "count": count}, rule=rule)
    except ValueError as error:
        problems.append(f"grouping: {error}")
    raise ConfigError([f"decoding.candidates={count}: {problem}" for problem in problems])


def _movers(run: Run, parts: Composition[TokenLM]) -> Movers | None:
    every = run.values["decoding"].get("sound_every")
    if every is None:
        return None
    target, codec, cache = parts.target, parts.codec, cache_folder()
    name = codec_name(run.values["codec"], run.values["fingerprints"])
    key = [*map(as_it_lies, (run.target, run.values["codec"])), str(run.device), every]
    return kept.get("movers", key, lambda: movers_of(target.embeddings("input"), target.end, codec, name, every, cache))


def _check_mode(mode: str, rule: Any) -> None:
    lacks = {
        "law": "states no law of one position",
        "truncated": "keeps no set of tokens that the target alone decides",
    }
    if mode in lacks and not hasattr(rule, mode):
        raise ConfigError([f"decoding.mode={mode}: {type(rule).__name__} {lacks[mode]} to draw from"])


def _compiled(run: Run, parts: Composition[TokenLM]) -> Composition[TokenLM]:
    """The parts with graphs for what they do, where ``decoding.compile`` asks for them.

    Raises:
        ConfigError: one cannot have any, and ``true`` was asked for.
    """
    strict = run.compile is True
    if run.compile is False:
        return parts
    from pcg.decoding.graphs import Graphs  # torch's compiler takes seconds to import

    key = [*map(as_it_lies, (run.target, run.draft)), str(run.device), run.compile]
    graphs = kept.get("graphs", key, lambda: Graphs(run.device, folder=cache_folder() / "kernels", strict=strict))
    try:
        return replace(
            parts,
            target=graphs.of_model(parts.target),
            draft=parts.draft and graphs.of_model(parts.draft),
            rule=parts.rule and graphs.of_rule(parts.rule),
        )
    except ValueError as error:
        if strict:
            raise ConfigError([f"decoding.compile=true: {error}; auto goes without"]) from error
        log.info("decoding.compile=auto: nothing is compiled: %s", error)
        return parts
