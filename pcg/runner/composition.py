"""Loads what a run is composed of (models, rule, codec, dataset, metrics) and checks that they fit each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import torch

from pcg.config.build import TARGET, build
from pcg.config.identity import name_of
from pcg.config.run import Run
from pcg.config.validate import ConfigError, refuse
from pcg.decoding.decoder import Decoder, OwnLoop
from pcg.decoding.pair import check_compatible
from pcg.decoding.transport import Movers
from pcg.decoding.tree import BranchingLM, CandidateRule, OutcomeRule
from pcg.engines.engine import Pair
from pcg.engines.tables import unloaded, unloaded_draft
from pcg.files import cache_folder
from pcg.interfaces import Codec, Dataset, Metric, Rule, SpeechModel, StateRule, TokenLM
from pcg.runner.groups import group_table
from pcg.runner.loading import kept, load_codec, load_dataset, metrics_of, release_models, versioned
from pcg.runner.movers import movers_of

log = logging.getLogger(__name__)
Model = TypeVar("Model", bound=SpeechModel)


@dataclass(frozen=True)
class Composition(Generic[Model]):
    """What a run is composed of. The models are loaded (``TokenLM``), or an engine holds them
    (``pcg.models.unloaded``).

    Attributes:
        draft, rule: None for the target alone.
        codec: None where voice prompts are codes already; then there is no audio.
        movers: None without ``decoding.sound_every``.
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
    """The composition of a run for our own loop; objects that runs share are built once a process.

    Raises:
        ConfigError: the models, rule and codec do not fit each other.
    """
    kept.drop("engine")  # which ends its processes
    device = run.device
    target: TokenLM = kept.get(
        "target",
        [versioned(run.target), str(device)],
        lambda: build(run.target, device=device),
        holders=("draft", "graphs", "movers"),
    )
    composition = _with_models(run, target, load_codec(run), _load_draft(run, target))
    rule = composition.rule
    if rule is not None and run.decoding.candidates > 1:
        rule = _with_candidates(rule, run.decoding.candidates, target)
    if rule is not None:
        _check_mode(run.decoding.mode, rule)
    movers = movers_of(run, target, composition.codec)
    return _compiled(run, replace(composition, rule=rule, movers=movers))


def serve(run: Run) -> tuple[Composition[Any], Decoder]:
    """The composition of a run for an engine, and the engine, which holds the models.

    Raises:
        ConfigError: the models, rule, codec and engine do not fit each other.
    """
    release_models()
    target = unloaded(run.target, run.device)
    draft = None if run.draft is None else unloaded_draft(run.draft, target)
    composition = _with_models(run, target, load_codec(run), draft)
    settings = {}
    if run.grouping is not None:
        settings = {key: value for key, value in run.grouping.items() if key not in (TARGET, "groups")}
        settings["rule"] = name_of(run.grouping)
    pair = Pair(
        target=target,
        draft=draft,
        rule=composition.rule,  # type: ignore[arg-type]  # an engine refuses what it does not support before it starts
        settings=settings,
        gamma=run.decoding.gamma,
        sampling=run.decoding.sampling,
        seed=run.settings.seed,
        threads=run.settings.threads,
        dtype=run.target.get("dtype", "auto"),
    )
    assert run.engine is not None
    node = {key: value for key, value in run.engine.items() if key not in ("name", "version")}
    return composition, kept.get("engine", [run.values, run.settings.seed], lambda: build(node).start(pair))


def with_decoder(run: Run) -> tuple[Composition[Any], Decoder]:
    """The composition of a run and its decoder; raises as ``load`` and ``serve``."""
    if run.engine is not None:
        return serve(run)
    composition, decoding = load(run), run.decoding
    return composition, OwnLoop(
        target=composition.target,
        draft=composition.draft,
        rule=composition.rule,
        sampling=decoding.sampling,
        gamma=decoding.gamma,
        seed=run.settings.seed,
        mode=decoding.mode,
        candidates=decoding.candidates,
        movers=composition.movers,
    )


def _with_models(run: Run, target: Model, codec: Codec | None, draft: Model | None) -> Composition[Model]:
    """The composition with these models, and with the rule as its config has it."""
    _check_vocabularies(target, draft, codec)
    rule = None if draft is None else _rule(run, target, draft, codec)
    return Composition(target, draft, rule, codec, load_dataset(run.dataset), metrics_of(run), run.device)


def _load_draft(run: Run, target: TokenLM) -> TokenLM | None:
    """The draft; None without one. A target that is its own draft is loaded once."""
    node = run.draft
    if node is None or node == run.target:
        return None if node is None else target
    key = [versioned(node), versioned(run.target), str(run.device)]  # some drafts refer to the target
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
    refuse(problems)


def _rule(run: Run, target: SpeechModel, draft: SpeechModel, codec: Codec | None) -> Rule | StateRule:
    """The run's rule, with its groups if it has any."""
    assert run.grouping is not None
    node = {key: value for key, value in run.grouping.items() if key != "groups"}
    groups = run.grouping.get("groups")
    if groups is None:
        return build(node)
    key = [groups, *map(versioned, (run.target, run.draft, run.values["codec"])), str(run.device)]
    described = run.values["codec"], run.values["fingerprints"]
    return build(node, groups=kept.get("groups", key, lambda: group_table(groups, target, draft, codec, *described)))


def _with_candidates(rule: Rule | StateRule | CandidateRule, count: int, target: TokenLM) -> CandidateRule:
    """The rule for ``count`` candidates a position.

    Raises:
        ConfigError: the rule or the target does not support several.
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


def _check_mode(mode: str, rule: Any) -> None:
    lacks = {
        "law": "states no law of one position",
        "truncated": "keeps no set of tokens that the target alone decides",
    }
    if mode in lacks and not hasattr(rule, mode):
        raise ConfigError([f"decoding.mode={mode}: {type(rule).__name__} {lacks[mode]} to draw from"])


def _compiled(run: Run, composition: Composition[TokenLM]) -> Composition[TokenLM]:
    """The composition with models and rule compiled as graphs, as ``decoding.compile`` says.

    Raises:
        ConfigError: with ``true``, where one of them cannot be compiled.
    """
    strict = run.compile is True
    if run.compile is False:
        return composition
    from pcg.decoding.graphs import Graphs  # torch's compiler takes seconds to import

    key = [*map(versioned, (run.target, run.draft)), str(run.device), run.compile]
    graphs = kept.get("graphs", key, lambda: Graphs(run.device, folder=cache_folder() / "kernels", strict=strict))
    try:
        return replace(
            composition,
            target=graphs.of_model(composition.target),
            draft=composition.draft and graphs.of_model(composition.draft),
            rule=composition.rule and graphs.of_rule(composition.rule),
        )
    except ValueError as error:
        if strict:
            raise ConfigError([f"decoding.compile=true: {error}; auto goes without"]) from error
        log.info("decoding.compile=auto: nothing is compiled: %s", error)
        return composition
