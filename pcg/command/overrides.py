"""Hydra's overrides as people type them: what is wrong with them, and how to write them right."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, Override
from hydra.errors import HydraException

from pcg.command.launching import missing_extra, texts
from pcg.config.validate import nearest

Choices = Callable[[str], list[str]]  # of a group, by its name; none of what is no group
_KEY = re.compile(r"[+~]{0,2}[\w./@:-]+")
_SHELL = re.compile(r'(["$`\\])')
_CALL = re.compile(r"(int|float|str|bool|choice|range|interval|glob|tag|sort|shuffle)\(.*\)")  # of Hydra
_PLAIN = re.compile(r"[-+]?[\d.]+(e[-+]?\d+)?|true|false|null", re.IGNORECASE)


def parse(loader: ConfigLoader, given: Sequence[str]) -> tuple[list[str], list[Override]]:
    """The problems of overrides that cannot be parsed, and the overrides that can."""
    problems: list[str] = []
    overrides: list[Override] = []
    parser = OverridesParser.create(config_loader=loader)

    def read(text: str) -> list[Override]:
        return parser.parse_overrides([text])

    for text in given:
        try:
            parsed = read(text)
        except HydraException as error:
            reason = f"{text!r} is no override (key=value): {str(error).splitlines()[0]}"
            problems.append(_as_text(text, read) or reason)
            continue
        if parsed[0].key_or_group:
            overrides += parsed
        else:
            problems.append(f"{text!r} is no override (key=value): it has no key")
    return problems, overrides


def _as_text(text: str, read: Callable[[str], object]) -> str | None:
    """The problem of a value that Hydra can parse only in quotes, with the quotes; None where they do not help."""
    key, equals, value = text.partition("=")
    if not equals or not value or not _KEY.fullmatch(key) or _CALL.fullmatch(value):
        return None
    try:
        read(_in_quotes(key, value))
    except HydraException:
        return None
    return f"{text}: quote the value, for Hydra and for the shell: {quoted(key, value)}"


def _in_quotes(key: str, value: str) -> str:
    mark = '"' if "'" in value else "'"
    return f"{key}={mark}{value.replace(mark, chr(92) + mark)}{mark}"


def quoted(key: str, value: str) -> str:
    """An override as it is typed in a shell, in quotes that make any value a text."""
    return '"' + _SHELL.sub(r"\\\1", _in_quotes(key, value)) + '"'


def as_typed(problem: str, overrides: Iterable[Override]) -> str:
    """A problem with the value as it was typed. Hydra parses ``2026_11_30`` and ``1e3`` as numbers, and a problem that
    prints the number would not show what to put into quotes."""
    for item in overrides:
        key, texts = item.key_or_group, str(item.input_line).partition("=")[2].split(",")
        value = item.value()
        values = value.list if isinstance(value, ChoiceSweep) else [value]
        for text, read in zip(texts, values, strict=False):
            if isinstance(read, int | float) and problem.startswith(f"{key}={read!r}:"):
                written = text.strip()
                problem = problem.replace(f"{key}={read!r}:", f"{key}={written}:", 1)
                problem = problem.replace(f"{key}='{read}'", f"{key}='{written}'").replace(
                    f"{key}='...'", f"{key}='{written}'"
                )
    return problem


def problems_of_several(choices: Choices, overrides: Sequence[Override]) -> list[str]:
    """The problems of several values without ``-m``: they are a sweep, or a text with a comma in it."""
    return [
        f"{item.input_line}: several values make a sweep; add -m{_or_one_text(choices, item)}"
        for item in overrides
        if item.is_sweep_override()
    ]


def _or_one_text(choices: Choices, item: Override) -> str:
    key, _, value = str(item.input_line).partition("=")
    numbers = all(_PLAIN.fullmatch(text.strip()) for text in value.split(","))
    if numbers or _CALL.fullmatch(value) or choices(item.key_or_group):
        return ""
    return f", or quote what is one text: {quoted(key, value)}"


def problems_of_groups(choices: Choices, groups: Mapping[str, Override]) -> dict[str, list[str]]:
    """By key, the problems of the choices of groups."""
    by_key = {key: _problems_of_group(item, choices(item.key_or_group)) for key, item in groups.items()}
    return {key: problems for key, problems in by_key.items() if problems}


def _problems_of_group(item: Override, choices: Sequence[str]) -> list[str]:
    group = item.key_or_group
    without = f"; {group}=none is a run without" if "none" in choices else ""
    if item.is_delete():
        return [f"{item.input_line}: a group cannot be taken away{without}"]
    values = texts(item)
    if not values:
        return [f"{item.input_line}: holds no value"]
    return [
        f"{group}={value}: there is no such choice"
        f"{without if value == 'null' else ''}{missing_extra(group, value) or nearest(value, choices)}"
        for value in values
        if value not in choices
    ]


def problems_of_lone_study(config: Any, command: str, arguments: Sequence[str]) -> list[str]:
    """The problem of an experiment that is a sweep and was started as one run, unless only its plan is asked for.

    Args:
        config: composed for one run, with its ``hydra`` node.
        arguments: of the command line.
    """
    if not config.hydra.sweeper.get("params") or config.get("dry"):
        return []
    choice = config.hydra.runtime.choices["experiment"]
    program = sys.argv[0] if sys.argv[0].startswith("pcg ") else f"python experiments/{command}.py"
    return [f"experiment={choice}: a study of several runs, started by -m: {program} {shlex.join(['-m', *arguments])}"]
