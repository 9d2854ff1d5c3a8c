"""The parts of a run, built from its config and kept for the next run of the sweep."""

from __future__ import annotations

import hashlib
import inspect
import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from pcg.config import fingerprint
from pcg.config.build import TARGET, Kept, build, constructor, is_built
from pcg.config.identity import canonical, name_of
from pcg.config.settings import SOURCES
from pcg.config.validate import ConfigError, nearest
from pcg.decoding.pair import Placed, check_compatible
from pcg.decoding.transport import Movers
from pcg.decoding.tree import BranchingLM, CandidateRule, OutcomeRule
from pcg.engines.engine import Decoder, Pair, Spoken
from pcg.files import cache_folder
from pcg.groups.cache import build_cached
from pcg.groups.table import GroupTable
from pcg.interfaces import (
    Codec,
    Dataset,
    Metric,
    Rule,
    StateRule,
    TokenLM,
)
from pcg.runner.movers import movers_of
from pcg.sampling import Sampling

_kept = Kept()
log = logging.getLogger(__name__)


class Composed(Protocol):
    """What a run is composed of besides what decodes. Without a draft there is no rule; without a codec everything is
    coded already, and nothing is heard."""

    @property
    def audio_tokens(self) -> int: ...
    @property
    def rule(self) -> Rule | StateRule | CandidateRule | None: ...
    @property
    def codec(self) -> Codec | None: ...
    @property
    def dataset(self) -> Dataset: ...
    @property
    def metrics(self) -> Mapping[str, Metric]: ...
    @property
    def device(self) -> torch.device: ...


@dataclass(frozen=True)
class Parts:
    """A run that our own loop decodes; see ``Composed``."""

    target: TokenLM
    draft: TokenLM | None
    rule: Rule | StateRule | CandidateRule | None
    codec: Codec | None
    dataset: Dataset
    metrics: Mapping[str, Metric]
    device: torch.device
    movers: Movers | None = None

    @property
    def audio_tokens(self) -> int:
        return self.target.end


@dataclass(frozen=True)
class ServedParts:
    """A run that an engine decodes; see ``Composed``."""

    audio_tokens: int
    rule: Rule | StateRule | None
    codec: Codec | None
    dataset: Dataset
    metrics: Mapping[str, Metric]
    device: torch.device


def load(run: Mapping[str, Any]) -> Parts:
    """Build the parts of a canonical config, each once a process.

    Raises:
        ConfigError: parts that do not fit each other.
    """
    device = torch.device(run["device"])
    _kept.drop("engine")  # and its process
    target = _kept.get(
        "target",
        [_as_it_lies(run["target"]), str(device)],
        lambda: build(run["target"], device=device),
        holders=("draft", "graphs", "movers"),
    )
    codec = _kept_part("codec", run["codec"], device=device) if is_built(run["codec"]) else None
    draft = _draft(run, target, device)
    _same_vocabulary(target, draft, codec)
    rule = None
    if draft is not None:
        rule = _with_candidates(_rule(run, target, draft, codec), run["decoding"].get("candidates", 1), target)
    if rule is not None:
        _check_mode(run["decoding"].get("mode"), rule)
    movers = _movers(run, target, codec)
    target, draft, rule = _graphed(run, target, draft, rule)
    return Parts(
        target=target,
        draft=draft,
        rule=rule,
        codec=codec,
        dataset=load_dataset(run["dataset"]),
        metrics=metrics_of(run),
        device=device,
        movers=movers,
    )


def _movers(run: Mapping[str, Any], target: Embedded, codec: Codec | None) -> Movers | None:
    """None where the run does not ask for them."""
    every = run["decoding"].get("sound_every")
    if every is None:
        return None
    key = [run["target"], run["codec"], run["device"], every]
    name, cache = _codec_name(run), cache_folder()
    return _kept.get(
        "movers", key, lambda: movers_of(target.embeddings("input"), target.end, codec, name, every, cache)
    )


def served(run: Mapping[str, Any], sampling: Sampling, seed: int) -> tuple[ServedParts, Decoder]:
    """The parts of a canonical config that names an engine, and the engine, which holds the models.

    Raises:
        ConfigError: parts that do not fit each other, or the engine.
    """
    device = torch.device(run["device"])
    release_models()
    codec = _kept_part("codec", run["codec"], device=device) if is_built(run["codec"]) else None
    target = Spoken(run["target"], device)
    draft = Spoken(run["draft"], device) if is_built(run["draft"]) else None
    _same_vocabulary(target, draft, codec)
    rule: Any = None
    settings: dict[str, Any] = {}
    if draft is not None:
        rule = _rule(run, target, draft, codec)
        settings = {key: value for key, value in run["grouping"].items() if key not in (TARGET, "groups")}
        settings["rule"] = name_of(run["grouping"])
    pair = Pair(target, draft, rule, settings, run["decoding"].get("gamma", 0), sampling, seed, run["threads"])
    node = {key: value for key, value in run["engine"].items() if key not in ("name", "version")}
    decoder = _kept.get("engine", [run, seed], lambda: build(node).start(pair))
    composed = ServedParts(target.end, rule, codec, load_dataset(run["dataset"]), metrics_of(run), device)
    return composed, decoder


def _check_mode(mode: str | None, rule: Any) -> None:
    wants = {
        "law": "states no law of one position",
        "truncated": "keeps no set of tokens that the target alone decides",
    }
    if mode in wants and not hasattr(rule, mode):
        raise ConfigError([f"decoding.mode={mode}: {type(rule).__name__} {wants[mode]} to draw from"])


def load_dataset(node: Mapping[str, Any]) -> Dataset:
    """Opened once a process, and again where its files have changed since."""
    return _kept.get("dataset", [node, fingerprint.state(node)], lambda: build(node))


def identified(config: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical config, its fingerprints with that of what the dataset holds; raises as ``with_dataset``."""
    return with_dataset(canonical(config))


def with_dataset(run: Mapping[str, Any]) -> dict[str, Any]:
    """A canonical config, its fingerprints with that of what the dataset holds.

    Raises:
        ValueError: the dataset cannot be opened, or two of its utterances have the same id.
    """
    key = ["utterances", run["dataset"], fingerprint.state(run["dataset"])]
    made = _kept.get("utterances", key, lambda: fingerprint.of_utterances(load_dataset(run["dataset"])))
    return {**run, "fingerprints": {**run["fingerprints"], "dataset": made}}


def check_voices(run: Mapping[str, Any]) -> None:
    """Raises ConfigError where voice prompts are audio and there is no codec to encode them."""
    if is_built(run["codec"]):
        return
    said = list(load_dataset(run["dataset"]))
    heard = [each.id for each in said if each.load_prompt is not None and each.load_prompt_codes is None]
    if heard:
        raise ConfigError(
            [
                f"codec=none: the voice prompts of {len(heard)} of {len(said)} utterances are audio, the first that of "
                f"{heard[0]!r}: choose a codec, or texts without a voice (dataset=texts) or with a coded one "
                "(dataset=tokens)"
            ]
        )


def metrics_of(run: Mapping[str, Any]) -> dict[str, Metric]:
    """Those of a run without a codec have nothing to hear: they tell which figures it lacks, and fetch nothing."""
    return load_metrics(run["metrics"], heard=is_built(run["codec"]))


def load_metrics(nodes: Mapping[str, Any], heard: bool = True) -> dict[str, Metric]:
    """Metrics by name. What one must fetch is fetched now, since a run of hours should not fail at its first score."""
    metrics = {name: _kept_part(f"metrics.{name}", node) for name, node in nodes.items()}
    for metric in metrics.values() if heard else ():
        getattr(metric, "prepare", lambda: None)()
    return metrics


def release_models() -> None:
    """Let go of the models, so that what is loaded next has their memory."""
    _kept.drop("target", "draft", "codec", "engine", "graphs", "movers", "groups")
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _as_it_lies(node: Mapping[str, Any] | None) -> list[Any]:
    """What a part is kept under: its config, and the state of the files that it names, which may be replaced."""
    return [node, fingerprint.state(node or {})]


def _kept_part(role: str, node: Mapping[str, Any], **supplied: Any) -> Any:
    key = [_as_it_lies(node), {name: str(value) for name, value in supplied.items()}]
    return _kept.get(role, key, lambda: build(node, **supplied))


def _draft(run: Mapping[str, Any], target: TokenLM, device: torch.device) -> TokenLM | None:
    """None without one; the target's own weights where it is its own draft."""
    if run["draft"] in (None, run["target"]):
        return target if run["draft"] else None
    # some drafts hold on to the target
    key = [_as_it_lies(run["draft"]), _as_it_lies(run["target"]), str(device)]
    supplied = {"device": device, "vocab_size": target.vocab_size, "target": target}
    return _kept.get("draft", key, lambda: build(run["draft"], **supplied), holders=("graphs",))


def _graphed(run: Mapping[str, Any], target: Any, draft: Any, rule: Any) -> tuple[Any, Any, Any]:
    """Target, draft and rule with graphs for what they do, where ``decoding.compile`` asks for them.

    Raises:
        ConfigError: one cannot have any, and ``true`` was asked for.
    """
    asked = run["decoding"].get("compile", False)
    if asked is False:
        return target, draft, rule
    from pcg.decoding.graphs import Graphs  # torch's compiler takes seconds to import

    models = [_as_it_lies(run[part]) for part in ("target", "draft")]
    key, device = [models, run["device"], asked], torch.device(run["device"])
    graphs = _kept.get("graphs", key, lambda: Graphs(device, folder=cache_folder() / "kernels", strict=asked is True))
    try:
        graphed = graphs.of_model(target), draft and graphs.of_model(draft), rule and graphs.of_rule(rule)
    except ValueError as error:
        if asked is True:
            raise ConfigError([f"decoding.compile=true: {error}; auto goes without"]) from error
        log.info("decoding.compile=auto: nothing is compiled: %s", error)
        return target, draft, rule
    return graphed


def _same_vocabulary(target: Placed, draft: Placed | None, codec: Codec | None) -> None:
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


def _rule(run: Mapping[str, Any], target: Embedded, draft: Embedded, codec: Codec | None) -> Rule | StateRule:
    """The run's rule, with its groups if it has any."""
    node = {key: value for key, value in run["grouping"].items() if key != "groups"}
    if "groups" not in run["grouping"]:
        return build(node)
    groups = dict(run["grouping"]["groups"])
    key = [groups, *(_as_it_lies(run[part]) for part in ("target", "draft", "codec")), run["device"]]
    table = _kept.get("groups", key, lambda: group_table(groups, target, draft, codec, run))
    return build(node, groups=table)


def _with_candidates(rule: Rule | StateRule, count: int, target: TokenLM) -> Rule | StateRule | CandidateRule:
    """The rule for ``count`` candidates a position.

    Raises:
        ConfigError: the rule or the target is not made for several.
    """
    if count == 1:
        return rule
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


def _codec_name(run: Mapping[str, Any]) -> str:
    """A digest of all that the codec's config says, and of its weights."""
    weights = {key: value for key, value in run["fingerprints"].items() if key.startswith("codec.")}
    told = json.dumps([run["codec"], weights], sort_keys=True)
    return hashlib.blake2b(told.encode(), digest_size=5).hexdigest()


class Embedded(Protocol):
    """What of a model its groups are built of."""

    device: torch.device
    end: int

    def embeddings(self, source: str) -> Float[Tensor, "vocab dim"]: ...


def group_table(
    groups: Mapping[str, Any], target: Embedded, draft: Embedded | None, codec: Codec | None, run: Mapping[str, Any]
) -> GroupTable:
    """Groups over the speech vocabulary; only audio tokens are grouped, end-of-speech stays alone.

    Args:
        groups: the config of their builder, with the source of the vectors.
        run: what tells the codec: its config and ``fingerprints``.

    Raises:
        ConfigError: the vectors are of a model or a codec that is not there.
    """
    groups = dict(groups)
    source = groups.pop("source", "target_input")
    supplied = {"codec": codec, "codec_name": _codec_name(run), "cache": cache_folder()}
    if codec is None and "codec" in inspect.signature(constructor(groups["_target_"])).parameters:
        raise ConfigError([f"grouping.groups: {groups['_target_']} listens to a codec, and there is none (codec=none)"])
    embeddings = embeddings_of(source, target, draft, codec)
    groupable = torch.ones(len(embeddings), dtype=torch.bool, device=embeddings.device)
    groupable[target.end] = False
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        table = build_cached(build(groups, **supplied), embeddings, groupable, cache_folder())
    table.check(groupable)
    for warning in caught:
        log.warning("%s", warning.message)
    return table.to(target.device)


def embeddings_of(
    source: str, target: Embedded, draft: Embedded | None, codec: Codec | None
) -> Float[Tensor, "vocab dim"]:
    """One vector a token of the speech vocabulary; the codec has none for end-of-speech, which gets zeros.

    Raises:
        ConfigError: no such source, or no codec or draft to take it from.
    """
    if source not in SOURCES:
        raise ConfigError([f"grouping.groups.source={source!r}: no such source{nearest(str(source), SOURCES)}"])
    if source == "codec":
        if codec is None:
            raise ConfigError(["grouping.groups.source=codec: there is no codec (codec=none)"])
        codebook = codec.codebook()
        return torch.cat([codebook, codebook.new_zeros(1, codebook.shape[1])])
    model, table = source.split("_")
    if model == "target":
        return target.embeddings(table)
    if draft is None:
        raise ConfigError([f"grouping.groups.source={source}: there is no draft (draft=none)"])
    return draft.embeddings(table)
