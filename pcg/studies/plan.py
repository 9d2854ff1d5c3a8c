"""What a run will need and what it can gain, from the shapes alone: no weights, no data, no GPU.

    pcg run target=llasa_8b draft=llasa_1b codec=xcodec2 dry=true plan.gpu=h100

A pass is taken to be as fast as the slower of two: reading every weight that it uses and the cache of every row
once, at the GPU's bandwidth, or its multiplications at the GPU's peak (Williams et al. 2009, the roofline). What a
GPU reaches is less, so times are lower bounds. The codec and metrics are not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from inspect import signature
from typing import Any

from rich.console import Console
from rich.table import Table

from pcg.config.build import TARGET, constructor, is_built
from pcg.config.settings import GPUS, Decoding, Plan
from pcg.config.validate import ConfigError, check
from pcg.results.timing import ideal_speedup


@dataclass(frozen=True)
class Model:
    """One model of the plan; a draft without weights has none of it.

    Attributes:
        cache: bytes, at the longest.
        pass_one, pass_block: seconds of a pass over one token a row, and over what a round has: gamma * candidates + 1.
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
        working: probabilities of one round over the speech vocabulary, float32, of both models.
        tau: tokens a round if each drafted token were accepted with probability alpha, independently, and each further
            candidate with probability ``rival`` where those before it were not.
        gain: of that, what the further candidates add for each position more that the target scores; None without.
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
        ConfigError: the config is wrong, or a model's shape is not to be had.
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
    # a rival that is kept ends its round with one token more than a rejection does
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
    """``target`` says what a draft that is made of it does not."""
    make = constructor(node[TARGET])
    if not hasattr(make, "footprint"):  # made of no weights
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
    found, settings = needs(config), check(config)
    plan, decoding = settings.plan, settings.decoding
    table = Table(title=f"{plan.gpu}, batch {decoding.batch_size}, {plan.prompt_tokens} + {decoding.max_tokens} tokens")
    for column in (
        "",
        "parameters",
        "weights",
        "cache",
        "a pass of 1",
        f"of {decoding.gamma * decoding.candidates + 1}",
    ):
        table.add_column(column, justify="right" if column else "left")
    for role, model in found.models.items():
        sizes = (f"{model.parameters:,}", _gb(model.weights), _gb(model.cache))
        table.add_row(role, *sizes, *(f"{1000 * s:.2f} ms" for s in (model.pass_one, model.pass_block)))
    console = Console(soft_wrap=True, markup=False, emoji=False)
    console.print(table)
    console.print(f"groups {_gb(found.groups)}, probabilities {_gb(found.working)}; codec and metrics not counted")
    verdict = "fits" if found.fits else "DOES NOT FIT: lower decoding.batch_size or decoding.max_tokens"
    console.print(f"in all {_gb(found.total)} of {_gb(found.available)}: {verdict}")
    alone = decoding.batch_size / found.models["target"].pass_one
    console.print(f"target alone: at most {alone:.0f} tokens/s")
    if found.speedup is not None:
        console.print(
            f"alpha {plan.alpha:g}, gamma {decoding.gamma}: tau {found.tau:.2f}, ideal speed-up {found.speedup:.2f}, "
            f"at most {alone * found.speedup:.0f} tokens/s"
        )
    if found.gain is not None:
        console.print(
            f"{decoding.candidates} candidates, each further one kept with {plan.rival:g}: {found.gain:+.3f} tau for "
            "each position more that the target scores"
        )
    if any(model.published for model in found.models.values()):
        console.print("shapes as published: no config.json at hand")


def _gb(size: int) -> str:
    return f"{size / 1e9:.2f} GB"
