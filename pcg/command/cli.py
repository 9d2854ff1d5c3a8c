"""The command line of the entry points: Hydra's, checked first, so that every mistake is named at once, in words."""

from __future__ import annotations

import io
import itertools
import locale
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from hydra import compose
from hydra.core.config_loader import ConfigLoader
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pcg.command import folders, launching, pipes, status
from pcg.command import overrides as typed
from pcg.command.callbacks import gave_up
from pcg.command.hydra_loader import arguments_of, loader_of
from pcg.command.launching import texts
from pcg.config.validate import ConfigError, check, nearest, refuse
from pcg.config.values import problems_of_values, resolved
from pcg.results.environment import memory_advice
from pcg.runner import objective
from pcg.runner.run import run_once
from pcg.studies import plan

Check = Callable[[Mapping[str, Any]], object]
T = TypeVar("T")
# What composing raises. Hydra itself raises only the first two; the others come of values that it does not expect.
_COMPOSING = (HydraException, OmegaConfBaseException, ValueError, TypeError, AttributeError)
CONF = str(folders.CONF)
_OVERRIDE = re.compile(r"[+~]{0,2}[A-Za-z_][\w.@/-]*=|~[A-Za-z_][\w.@/-]*$")
launching.set_defaults(folders.CONF)


def check_run(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists what is wrong with the config of a run, its ``objective`` included."""
    if "thetas" in config:
        raise ConfigError(
            ["experiment: this study is not made of runs; start it by pcg substitute (experiments/substitute.py)"]
        )
    refuse(objective.problems(config), lambda: check(config))


def take_lists(*keys: str) -> None:
    """Rewrite ``key=A,B`` on this command line as the list ``key=[A,B]``, which Hydra would take for a sweep."""
    for place, argument in enumerate(sys.argv):
        key, _, value = argument.partition("=")
        if key in keys and "," in value and not value.startswith(("[", "'", '"')):
            sys.argv[place] = f"{key}=[{value}]"


def take_text(config_name: str) -> dict[str, str]:
    """Remove the words that are no ``key=value`` from this command line; returns them as ``text``.

    The word ``-`` stands for standard input. Without any argument the program prints the comment at the head of the
    command's YAML, which says how to use it, and ends.
    """
    if not sys.argv[1:]:
        lines = (folders.CONF / f"{config_name}.yaml").read_text(encoding="utf-8").splitlines()
        with pipes.may_be_closed():
            comment = itertools.takewhile(lambda line: line.startswith("#"), lines)
            print("\n".join(line[1:].removeprefix(" ") for line in comment))
        sys.exit(0)
    words: list[str] = []
    others: list[str] = []
    for place, argument in enumerate(sys.argv[1:]):
        value_of_flag = re.fullmatch(r"-{1,2}[a-z-]+", sys.argv[place]) is not None and place > 0
        is_flag = argument.startswith("-") and argument != "-"
        (others if value_of_flag or is_flag or _OVERRIDE.match(argument) else words).append(argument)
    sys.argv[1:] = others
    if not words:
        return {}
    return {"text": sys.stdin.read() if words == ["-"] else " ".join(words)}


@contextmanager
def clear_errors(config_name: str, check: Check | None = check_run) -> Iterator[None]:
    """Check the command line before Hydra runs it; a mistake ends the program with one message and status 2.

    Args:
        check: raises a ConfigError for a composed config of this entry point; None accepts every one that composes.
    """
    _use_utf8()
    sys.argv[1:] = _without_launcher(sys.argv[1:])
    try:
        check_command_line(config_name, sys.argv[1:], check)
    except ConfigError as error:
        print(f"The config has {len(error.problems)} problem(s):\n{error}", file=sys.stderr)
        sys.exit(2)
    with pipes.may_be_closed():
        yield


def _use_utf8() -> None:
    """Make files, file names and printed text UTF-8 in every locale; where they are not, Python starts again."""
    if locale.getencoding().lower() not in ("utf-8", "utf8") and os.environ.get("PYTHONUTF8") != "1":
        os.environ["PYTHONUTF8"] = "1"  # the processes of launchers and devices inherit it
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace")


def _without_launcher(arguments: Sequence[str]) -> list[str]:
    """The arguments; those of a command that runs nothing (``status``, ``dry``) with the launcher of this process.

    Such a command fetches nothing either.
    """
    asking = [word for word in arguments if word.lower() in ("status=true", "dry=true")]
    if not asking:
        return list(arguments)
    os.environ["HF_HUB_OFFLINE"] = "1"  # before any of the hub's libraries is imported
    others = [word for word in arguments if not word.lstrip("+~").startswith(("hydra/launcher=", "hydra.launcher."))]
    place = others.index(asking[0])  # Hydra takes overrides only side by side
    return [*others[:place], "hydra/launcher=basic", *others[place:]]


def execute(config: DictConfig) -> float | None:
    """Do one run; with ``status`` print how far it is, with ``dry`` its plan.

    Returns:
        What the run is worth to the search that it is part of; None without an ``objective``, or where it failed.
    """
    asks_only = config.status or config.dry
    stopped = "nothing was written" if asks_only else "the same command goes on from here"
    return carry_out(lambda: _execute(plain(config)), stopped)


def _execute(config: dict[str, Any]) -> float | None:
    if config["status"]:
        status.ask(config)
        if HydraConfig.get().mode != RunMode.MULTIRUN:  # of a sweep ``StudyReport`` prints one table at the end
            status.show_asked()
        return None
    if config["dry"]:
        plan.show(config)
        return None
    result = run_once(config, HydraConfig.get().overrides.task)
    return objective.worth(config["objective"], result.values) if config["objective"] else None


def carry_out(work: Callable[[], T], stopped: str = "nothing was written") -> T | None:
    """Do the work of a command and return its result.

    An error ends the program with a message and no traceback (that of a run is in its run.log). In a sweep it is noted
    in ``gave_up``, and the other runs go on.

    Args:
        stopped: the second half of the message after Ctrl-C.
    """
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN
    try:
        return work()
    except KeyboardInterrupt:
        print(f"Stopped; {stopped}.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        print(f"The run failed: {type(error).__name__}: {error}{memory_advice(error)}", file=sys.stderr)
        if not sweep:
            sys.exit(1)
        gave_up.append(str(error))
        return None


def check_command_line(config_name: str, arguments: Sequence[str], check: Check | None = check_run) -> None:
    """Raise a ConfigError that lists what is wrong with the overrides, in every run of a sweep."""
    args = arguments_of(arguments)
    if args.help or args.hydra_help or args.info or args.shell_completion or args.experimental_rerun:
        return
    with loader_of(CONF, args.config_dir) as loader:
        problems, overrides = typed.parse(loader, args.overrides)
        if not problems:
            sweep = _composed_sweep(loader, config_name, args.overrides) if args.multirun else None
            if sweep is not None:
                overrides = _sweep_of(loader, sweep) + overrides
                problems = launching.problems(sweep, overrides)
            problems += _problems(loader, config_name, overrides, args.multirun, check)
            if args.multirun and sweep is None and not problems:
                problems = ["-m: the sweep does not compose; leave hydra.sweeper and hydra.launcher as they are"]
        if not problems and not args.multirun and any(item.key_or_group == "experiment" for item in overrides):
            config = loader.load_configuration(config_name, args.overrides, RunMode.RUN)
            problems = typed.problems_of_lone_study(config, config_name, args.overrides)
    refuse(problems)


def _composed_sweep(loader: ConfigLoader, config_name: str, overrides: Sequence[str]) -> DictConfig | None:
    """The config of a sweep as a whole, with its ``hydra`` node; None where it does not compose."""
    try:
        config = loader.load_configuration(
            config_name, list(overrides), RunMode.MULTIRUN, validate_sweep_overrides=False
        )
        return config if config.hydra.sweeper and config.hydra.launcher else None
    except _COMPOSING:
        return None  # the check of each run names what is wrong


def _sweep_of(loader: ConfigLoader, config: DictConfig) -> list[Override]:
    """The overrides in an experiment's ``hydra.sweeper.params``. Those of the command line come after them and win."""
    parameters = config.hydra.sweeper.get("params") or {}
    problems, overrides = typed.parse(loader, [f"{key}={value}" for key, value in parameters.items()])
    refuse(f"hydra.sweeper.params: {problem}" for problem in problems)
    return overrides


def _problems(
    loader: ConfigLoader, name: str, overrides: list[Override], multirun: bool, check: Check | None
) -> list[str]:
    choices = loader.get_group_options
    if not multirun and (several := typed.problems_of_several(choices, overrides)):
        return several
    latest = {override.get_key_element(): override for override in overrides}
    groups = {key: item for key, item in latest.items() if choices(item.key_or_group)}
    refused = typed.problems_of_groups(choices, groups)
    problems = [problem for of_group in refused.values() for problem in of_group]
    # keys of a group with a wrong choice cannot be checked; the others can
    wrong = {groups[key].key_or_group for key in refused}
    latest = {key: item for key, item in latest.items() if item.key_or_group.split(".")[0] not in wrong}
    groups = {key: item for key, item in groups.items() if key in latest}
    values = {key: item for key, item in latest.items() if key not in groups}
    for chosen in itertools.product(*([f"{key}={value}" for value in texts(item)] for key, item in groups.items())):
        wrong_values, composes = _wrong_values(name, list(chosen), values, check)
        if not composes and (unknown := _unknown_keys(loader, name, list(chosen), values)):
            known = {key: item for key, item in values.items() if key not in unknown}
            wrong_values = [*unknown.values(), *_wrong_values(name, list(chosen), known, check)[0]]
        problems += wrong_values
    # a mistake that several runs of a sweep have is named once, though other keys may be allowed in each
    return list({problem.partition(" allowed: ")[0]: problem for problem in reversed(problems)}.values())[::-1]


def _unknown_keys(loader: ConfigLoader, name: str, chosen: list[str], values: Mapping[str, Override]) -> dict[str, str]:
    """By override, the problem of an unknown key; empty where all are known, or the groups alone do not compose."""
    try:
        config = loader.load_configuration(name, chosen, RunMode.RUN)
    except _COMPOSING:
        return {}
    known = set(_keys(OmegaConf.to_container(config, resolve=False)))
    offered = {key for key in known if key.partition(".")[0] != "hydra"} | set(loader.list_groups("")) - {"hydra"}
    return {
        key: f"{item.key_or_group}: unknown key{nearest(item.key_or_group, offered)}"
        for key, item in values.items()
        if not (item.is_add() or item.is_force_add() or item.is_delete())
        and item.key_or_group not in known
        and not item.key_or_group.startswith("hydra.")
    }


def _keys(node: Any, path: str = "") -> Iterator[str]:
    """Every key of nested dictionaries, dotted."""
    for key, inner in node.items():
        yield f"{path}{key}"
        if isinstance(inner, dict):
            yield from _keys(inner, f"{path}{key}.")


def _wrong_values(
    name: str, chosen: list[str], values: dict[str, Override], check: Check | None
) -> tuple[list[str], bool]:
    """Compose and check with every value of every swept key at least once.

    Returns:
        The problems, and whether everything composes.
    """
    problems, composes = [], True
    columns = [[f"{key}={text}" for text in texts(item)] for key, item in values.items()]
    for index in range(max([len(column) for column in columns], default=1)):
        one_each = [column[min(index, len(column) - 1)] for column in columns]
        try:
            config = plain(compose(name, chosen + one_each))
        except _COMPOSING as error:
            problems.append(_no_such_group(error, name) or _reason(error))
            composes = False
            continue
        of_config = problems_of_values(config)
        try:
            if check is not None:
                check(config)
        except ConfigError as error:
            of_config += error.problems
        except OSError as error:  # of a path that may not be read, or whose name is too long
            of_config.append(f"{error.filename}: {error.strerror}")
        problems += [typed.as_typed(problem, values.values()) for problem in of_config]
    return problems, composes


def plain(config: DictConfig) -> dict[str, Any]:
    """A config as plain values, with interpolations and the ``~`` of paths resolved."""
    values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert isinstance(values, dict)
    kept = {str(key): value for key, value in values.items() if key not in ("hydra", "experiment")}
    return resolved(kept)


def _no_such_group(error: Exception, name: str) -> str | None:
    """The problem of a group that this command does not have; None where the error is another."""
    match = re.match(r"Could not override '([\w/@.]+)'", str(error))
    if match is None:
        return None
    choices = compose(name, return_hydra_config=True).hydra.runtime.choices
    groups = sorted(group for group in choices if group.isidentifier())
    return f"{match[1]}: pcg {name} has no such group, so leave it out; it has {', '.join(groups)}"


def _reason(error: Exception) -> str:
    """Hydra's message on one line, with that of the error that caused it."""
    words = " ".join(str(error).split())
    cause = " ".join(str(error.__cause__).split()) if error.__cause__ else ""
    return f"{words} ({cause})" if cause and cause not in words else words
