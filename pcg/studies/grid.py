"""What the studies score: each rule of a config with each combination of the values in its grid.

A point is told as the run that would measure it online, so that rules and groups are validated, built and named by
what ``experiments/run.py`` uses, and a prediction finds its measurement (``pcg.report.predicted``).
"""

from __future__ import annotations

import copy
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pcg.config.run import Run, parse
from pcg.config.settings import Settings
from pcg.config.validate import ConfigError, nearest
from pcg.decoding.tree import CandidateRule
from pcg.interfaces import Rule, StateRule
from pcg.runner.composition import load

_OF_A_RUN = ("study", "seed", "device", "threads", "paths", "target", "draft", "codec", "dataset", "decoding")


@dataclass(frozen=True)
class Point:
    """One rule with one set of values.

    Attributes:
        curve: the rule's name in the config; points of one curve differ in their settings alone.
        name: the curve, with the values of its grid.
        run: that measures it online.
    """

    curve: str
    name: str
    run: Run


def settings_and_points(
    config: Mapping[str, Any], found: Iterable[str] = (), wrong_with: Callable[[Point], Iterable[str]] = lambda _: ()
) -> tuple[Settings, list[Point]]:
    """What a study's resolved config asks for.

    Args:
        found: what the study itself has found wrong with its own keys.
        wrong_with: what is wrong with a point for this study alone.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    rules, grids, only = config["rules"], config["grids"], config["only"]
    only = [only] if isinstance(only, str) else only
    problems = [*found]
    problems += [f"{key}.{name}: no such rule{nearest(name, rules)}" for key, name in _strangers(rules, grids, only)]
    points: list[Point] = []
    for curve in [name for name in rules if only is None or name in only]:
        for changes in _combinations(grids.get(curve, {})):
            run = {key: config[key] for key in _OF_A_RUN}
            run |= {"grouping": _changed(rules[curve], changes), "metrics": config.get("metrics", {})}
            run |= {"logger": None, "max_failures": 0}
            try:
                measured = parse(run)
            except ConfigError as error:
                problems += [_renamed(problem, curve) for problem in error.problems]
                continue
            values = (f"{path[-1]}={value}" for path, value in changes.items())
            points.append(Point(curve, " ".join([curve, *values]), measured))
            problems += wrong_with(points[-1])
    if not points and not problems:
        problems.append("rules: there is none to score")
    if problems:
        raise ConfigError(problems)
    return points[0].run.settings, points


def rules_of(points: list[Point]) -> list[Rule | CandidateRule]:
    """The rule of each point. Points that ask for the same groups share one table.

    Raises:
        ConfigError: one that both models' distributions alone do not tell.
    """
    built: dict[int, Rule | CandidateRule] = {}
    # the runner keeps one table at a time: those who share it come one after another
    for index in sorted(range(len(points)), key=lambda index: _groups_key(points[index])):
        rule = load(points[index].run).rule
        assert rule is not None
        if isinstance(rule, StateRule):
            raise ConfigError([f"rules.{points[index].curve}: reads the target's states, so only runs can measure it"])
        built[index] = rule
    return [built[index] for index in range(len(points))]


def _groups_key(point: Point) -> str:
    return json.dumps((point.run.grouping or {}).get("groups"), sort_keys=True)


def _strangers(rules: Mapping[str, Any], grids: Mapping[str, Any], only: list[str] | None) -> list[tuple[str, str]]:
    named = [("grids", name) for name in grids] + [("only", name) for name in only or ()]
    return [(key, name) for key, name in named if name not in rules]


def _combinations(grid: Mapping[str, Any]) -> Iterator[dict[tuple[str, ...], Any]]:
    """Every combination of the values in a nested grid, as path -> value."""
    axes = dict(_leaves(grid))
    for values in itertools.product(*axes.values()):
        yield dict(zip(axes, values, strict=True))


def _leaves(grid: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    for key, value in grid.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value if isinstance(value, list) else [value]


def _changed(node: Mapping[str, Any], changes: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    changed = copy.deepcopy(dict(node))
    for (*groups, leaf), value in changes.items():
        inner = changed
        for group in groups:
            inner = inner.setdefault(group, {})
        inner[leaf] = value
    return changed


def _renamed(problem: str, curve: str) -> str:
    """A run's ``grouping`` is the study's ``rules.NAME``."""
    return f"rules.{curve}{problem.removeprefix('grouping')}" if problem.startswith("grouping") else problem
