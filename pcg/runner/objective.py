"""The objective of a search (``hydra/sweeper=optuna``): one figure of ``result.json``, under limits on others.

    objective:
      maximise: speed.speedup
      subject_to: ["quality.wer - quality.baseline_wer <= 0.02"]

A run within every limit is worth its figure. A run that breaks a limit is worth ``_PENALTY`` minus the excess: less
than every run within the limits, and the less the larger the excess, which leads a sampler back.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

from pcg.config.settings import metric_nodes
from pcg.config.validate import nearest
from pcg.results.schema import KEYS

_PENALTY = -1000.0  # far below every figure that one would maximise
_GROUPS = ("acceptance", "speed", "distortion", "quality")
_FIGURE = rf"(?:{'|'.join(_GROUPS)})\.[\w.]+"
_LIMIT = re.compile(rf"\s*({_FIGURE})\s*(?:-\s*({_FIGURE}))?\s*(<=|>=)\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)\s*")
_KNOWN = frozenset(key for key in KEYS if key.split(".")[0] in _GROUPS[:3])


def problems(config: Mapping[str, Any]) -> list[str]:
    """What is wrong with the ``objective`` of a run's config."""
    wanted = config.get("objective")
    if wanted is None:
        return []
    if not isinstance(wanted, Mapping) or set(wanted) - {"maximise", "subject_to"} or "maximise" not in wanted:
        return [
            "objective: expected `maximise`, a figure of result.json, and optionally `subject_to`, a list of limits"
        ]
    limits = wanted.get("subject_to") or []
    if not isinstance(limits, list):
        return ["objective.subject_to: expected a list of limits"]
    parsed = {str(limit): _LIMIT.fullmatch(str(limit)) for limit in limits}
    wrong = [
        f"objective.subject_to: {limit!r}: expected FIGURE <= NUMBER (or >=), or FIGURE - FIGURE <= NUMBER"
        for limit, match in parsed.items()
        if match is None
    ]
    named = [str(wanted["maximise"]), *(name for match in parsed.values() if match for name in match.group(1, 2))]
    return wrong + [problem for name in named if name for problem in _problems_of_figure(name, config)]


def _problems_of_figure(name: str, config: Mapping[str, Any]) -> list[str]:
    if name.startswith("quality."):
        return [] if metric_nodes(config.get("metrics")) else [f"objective: {name} is not measured with metrics=none"]
    return [] if name in _KNOWN else [f"objective: {name!r} is no figure of result.json{nearest(name, _KNOWN)}"]


def worth(wanted: Mapping[str, Any], result: Mapping[str, Any]) -> float:
    """The value of a finished run to the search.

    Args:
        wanted: a checked ``objective``.
        result: the content of ``result.json``.

    Raises:
        ValueError: the run did not measure a figure.
    """
    over = 0.0
    for limit in wanted.get("subject_to") or []:
        match = _LIMIT.fullmatch(limit)
        assert match is not None
        figure, minus, sign, bound = match.groups()
        value = _figure(result, figure) - (_figure(result, minus) if minus else 0.0)
        keeps = {"<=": operator.le, ">=": operator.ge}[sign](value, float(bound))
        over += 0.0 if keeps else abs(value - float(bound))
    return _PENALTY - over if over else _figure(result, wanted["maximise"])


def _figure(result: Mapping[str, Any], name: str) -> float:
    value: Any = result
    for key in name.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    if not isinstance(value, int | float):
        have = [
            f"{group}.{key}"
            for group in _GROUPS
            for key, other in result.get(group, {}).items()
            if isinstance(other, int | float)
        ]
        raise ValueError(f"objective: the run has no figure {name!r}{nearest(name, have)}")
    return float(value)
