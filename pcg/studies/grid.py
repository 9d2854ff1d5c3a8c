"""The points of the offline and the substitution study: each rule with each combination of the values in its grid.

A point is the run that would measure it online. So rules and groups are validated, built and named as those of runs
are, and a prediction finds its measurement (``pcg.report.predicted``).
"""

from __future__ import annotations

import copy
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.progress import track

from pcg.config.run import Run, parse
from pcg.config.settings import Settings
from pcg.config.validate import ConfigError, nearest, refuse
from pcg.decoding.tree import CandidateRule
from pcg.interfaces import Dataset, Rule, StateRule
from pcg.runner.composition import load
from pcg.types import Utterance

_OF_A_RUN = ("study", "seed", "device", "threads", "paths", "target", "draft", "codec", "dataset", "decoding")


@dataclass(frozen=True)
class Point:
    """One rule with one set of values.

    Attributes:
        curve: the rule's name in the config; points of one curve differ in their settings alone.
        name: the curve, with the values of its grid.
        run: the run that measures it online.
    """

    curve: str
    name: str
    run: Run


def settings_and_points(
    config: Mapping[str, Any],
    problems: Iterable[str] = (),
    problems_of: Callable[[Point], Iterable[str]] = lambda _: (),
) -> tuple[Settings, list[Point]]:
    """The settings and points of a study's resolved config.

    Args:
        problems: what is wrong with keys that only this study has.
        problems_of: returns what is wrong with a point for this study only.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    rules, grids, only = config["rules"], config["grids"], config["only"]
    only = [only] if isinstance(only, str) else only
    named = [("grids", name) for name in grids] + [("only", name) for name in only or ()]
    problems = [*problems]
    problems += [f"{key}.{name}: no such rule{nearest(name, rules)}" for key, name in named if name not in rules]
    points: list[Point] = []
    for curve in [name for name in rules if only is None or name in only]:
        axes = dict(_leaves(grids.get(curve, {})))
        for combination in itertools.product(*axes.values()):
            changes = dict(zip(axes, combination, strict=True))
            run = {key: config[key] for key in _OF_A_RUN}
            run |= {"grouping": _changed(rules[curve], changes), "metrics": config.get("metrics", {})}
            run |= {"logger": None, "max_failures": 0}
            try:
                measured = parse(run)
            except ConfigError as error:
                # a run's ``grouping`` is the study's ``rules.NAME``
                problems += [re.sub("^grouping", f"rules.{curve}", problem) for problem in error.problems]
                continue
            values = (f"{path[-1]}={value}" for path, value in changes.items())
            points.append(Point(curve, " ".join([curve, *values]), measured))
            problems += problems_of(points[-1])
    if not points and not problems:
        problems.append("rules: at least one rule is required; `only` leaves none")
    refuse(problems)
    return points[0].run.settings, points


def rules_of(points: list[Point]) -> list[Rule | CandidateRule]:
    """The rule of each point. Points with the same groups share one table.

    Raises:
        ConfigError: a rule reads more than the distributions of both models.
    """

    def groups_of(index: int) -> str:
        return json.dumps((points[index].run.grouping or {}).get("groups"), sort_keys=True)

    built: dict[int, Rule | CandidateRule] = {}
    for index in sorted(range(len(points)), key=groups_of):  # the runner keeps one table at a time
        rule = load(points[index].run).rule
        assert rule is not None
        if isinstance(rule, StateRule):
            curve = points[index].curve
            raise ConfigError([f"rules.{curve}: reads the target's states, which no study has; measure it by pcg run"])
        built[index] = rule
    return [built[index] for index in range(len(points))]


def with_progress(dataset: Dataset, study: str) -> Iterable[Utterance]:
    """The utterances, with a progress bar on a terminal."""
    console = Console(stderr=True)
    return track(dataset, study, len(dataset), console=console, transient=True, disable=not console.is_terminal)


def _leaves(grid: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], list[Any]]]:
    """The path of each key in a nested grid, and its values."""
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
