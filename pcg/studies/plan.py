"""What a run will need and can gain, from the models' shapes: no weights, no data and no GPU are needed.

    pcg run target=llasa_8b draft=llasa_1b codec=xcodec2 dry=true plan.gpu=h100

A pass takes the longer of two times: reading the weights that it uses and the cache of every row once, at the GPU's
bandwidth, or its multiplications at the GPU's peak (the roofline of Williams et al. 2009). A real GPU is slower, so
times are lower bounds. Codec and metrics are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from rich.console import Console
from rich.table import Table

from pcg.config.build import TARGET, constructor, is_built
from pcg.config.settings import GPUS, Decoding, Plan, Settings
from pcg.config.validate import ConfigError, check
from pcg.results.timing import ideal_speedup


@dataclass(frozen=True)
class Model:
    """One model of the plan; all numbers are 0 for a draft without weights.

    Attributes:
        weights, cache: bytes; the cache is that of utterances of ``max_tokens``.
        pass_one, pass_block: seconds of a pass over one token a row, and over the gamma * candidates + 1 of a round.
        published: whether the shape is the published one, since no config.json is on this machine.
    """

    parameters: int
    weights: int
    cache: int
    pass_one: float
    pass_block: float
    published: bool


@dataclass(frozen=True)
class Needs:
    """The whole plan; bytes are of one device.

    Attributes:
        working: float32 probabilities of both models over the speech vocabulary, in one round.
        tau: tokens a round, if each draft token is accepted with probability alpha, independently of the others, and
            each further candidate with probability ``rival`` where those before it were rejected.
        gain: the part of tau that further candidates add, divided by the positions that the target scores for them;
            None without further candidates.
    """

    models: Mapping[str, Model]
    groups: int
    working: int
    available: int
    tau: float
    speedup: float | None
    gain: float | None = None

    @property
    def total(self) -> int:
        return self.groups + self.working + sum(model.weights + model.cache for model in self.models.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.available


def needs(config: Mapping[str, Any]) -> Needs:
    """The plan of a run's config.

    Raises:
        ConfigError: the config is wrong, or a model's shape is unknown on this machine.
    """
    settings = check(config)
    decoding, plan = replace(settings.decoding, batch_size=settings.at_once), settings.plan
    models = {
        role: _model(role, config["target"], config[role], decoding, plan)
        for role in ("target", "draft")
        if is_built(config[role])
    }
    rows = decoding.batch_size * plan.rows * 4
    target, draft = models["target"], models.get("draft")
    grouped = draft is not None and "groups" in config["grouping"]
    member = getattr(constructor(config["grouping"][TARGET]), "BYTES_A_MEMBER", 4) if grouped else 0
    gamma, rivals = decoding.gamma, decoding.candidates - 1
    reached = [plan.alpha**place for place in range(gamma + 1)]
    # a round that ends with a kept rival emits one token more than one that ends with a rejection
    more = sum(reached[:-1]) * (1 - plan.alpha) * (1 - (1 - plan.rival) ** rivals)
    tau = sum(reached) + more
    return Needs(
        models=models,
        groups=plan.rows * (member * plan.group_size + 52) if grouped else 0,  # members; starts, sizes, weights, spans
        working=rows * (gamma * (2 + rivals) + 1 if draft else 1),
        available=GPUS[plan.gpu].memory,
        tau=tau,
        speedup=None
        if draft is None
        else ideal_speedup(tau, target.pass_one, gamma * draft.pass_one + target.pass_block),
        gain=more / (gamma * rivals) if draft and rivals else None,
    )


def _model(role: str, target: Mapping[str, Any], node: Mapping[str, Any], decoding: Decoding, plan: Plan) -> Model:
    """The plan of a model. Keys that a draft does not have are the target's, whose layers it may be made of."""
    make = constructor(node[TARGET])
    if not hasattr(make, "footprint"):  # it has no weights
        return Model(0, 0, 0, 0.0, 0.0, False)
    try:
        known = {"head": "full", **target, **node, "speech_rows": plan.rows}
        size = make.footprint(**{key: known[key] for key in signature(make.footprint).parameters if key in known})
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError([f"{role}.path: {error}"]) from error
    gpu, batch = GPUS[plan.gpu], decoding.batch_size
    cached = size.cache * batch * (plan.prompt_tokens + decoding.max_tokens // 2)  # on average

    def seconds(tokens: int) -> float:
        return max((size.read + cached) / gpu.bandwidth, 2 * size.multiplied * batch * tokens / gpu.operations)

    return Model(
        parameters=size.parameters,
        weights=size.weights,
        cache=size.cache * batch * (plan.prompt_tokens + decoding.max_tokens + decoding.gamma * decoding.candidates),
        pass_one=seconds(1),
        pass_block=seconds(decoding.gamma * decoding.candidates + 1),
        published=size.published,
    )


def show(config: Mapping[str, Any]) -> None:
    """Print the plan."""
    needed, settings = needs(config), Settings.of(config)
    plan, decoding = settings.plan, settings.decoding
    table = Table(title=f"{plan.gpu}, batch {decoding.batch_size}, {plan.prompt_tokens} + {decoding.max_tokens} tokens")
    block = f"of {decoding.gamma * decoding.candidates + 1}"
    for column in ("", "parameters", "weights", "cache", "a pass of 1", block):
        table.add_column(column, justify="right" if column else "left")
    for role, model in needed.models.items():
        sizes = (f"{model.parameters:,}", _gb(model.weights), _gb(model.cache))
        table.add_row(role, *sizes, *(f"{1000 * s:.2f} ms" for s in (model.pass_one, model.pass_block)))
    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(table)
    console.print(f"groups {_gb(needed.groups)}, probabilities {_gb(needed.working)}; codec and metrics not counted")
    verdict = "fits" if needed.fits else "DOES NOT FIT: lower decoding.batch_size or decoding.max_tokens"
    console.print(f"in all {_gb(needed.total)} of {_gb(needed.available)}: {verdict}")
    alone = decoding.batch_size / needed.models["target"].pass_one
    console.print(f"target alone: at most {alone:.0f} tokens/s")
    if needed.speedup is not None:
        console.print(
            f"alpha {plan.alpha:g}, gamma {decoding.gamma}: tau {needed.tau:.2f}, ideal speed-up {needed.speedup:.2f}, "
            f"at most {alone * needed.speedup:.0f} tokens/s"
        )
    if needed.gain is not None:
        console.print(
            f"{decoding.candidates} candidates, each further one kept with {plan.rival:g}: {needed.gain:+.3f} tau for "
            "each position more that the target scores"
        )
    if any(model.published for model in needed.models.values()):
        console.print("shapes as published: no config.json on this machine")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
