"""One run: compose, decode, score, write. What is finished is on disk before anything else happens to it."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from pcg.config.build import build, is_built
from pcg.config.fingerprint import fetch_described
from pcg.config.identity import label, method, run_id
from pcg.config.settings import Decoding, Settings
from pcg.config.validate import check
from pcg.results import environment, lock, store
from pcg.results.records import Records, of_batches, write_atomically
from pcg.results.schema import SCHEMA, summarise
from pcg.runner import devices, parts, rescore
from pcg.runner.devices import OverDevices
from pcg.runner.progress import LiveView
from pcg.runner.scores import ScoreMemo
from pcg.runner.work import Executor, InProcess, Job, batches
from pcg.types import Result

log = logging.getLogger("pcg")
_memo = ScoreMemo()
_done_here: set[Path] = set()


class RunFailed(RuntimeError):
    """A run in which more utterances failed than ``max_failures`` allows; the message lists them."""


def run_once(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> Result:
    """Do a run, or what is left of it, and return its result; at once if it is there already.

    While another process does the same run this one waits, and then returns what came of it. A finished run in which
    more utterances failed than ``max_failures`` now allows is gone on with.

    Args:
        config: resolved, plain values (``pcg.command.cli.plain``).
        overrides: what was asked for on the command line, for the record.

    Raises:
        ConfigError: the config cannot run.
        RunFailed: too many utterances failed. The others stay on disk; the same command tries the failed ones again.
        KeyboardInterrupt: after Ctrl-C, when the current batch is finished. The same command goes on from there.
    """
    settings = check(config)
    fetch_described(config)
    run = parts.identified(config)
    parts.check_voices(run)
    folder = settings.study_folder / run_id(run)
    found = _finished(folder, settings.max_failures)
    if found is None:
        folder.mkdir(parents=True, exist_ok=True)
        with lock.held(folder, label(run)):
            found = _finished(folder, settings.max_failures)  # another process may have done it meanwhile
            if found is None:
                return _do(settings, config, run, folder, list(overrides))
    failed = len(found.values["failures"])
    told = f", {failed} failed; max_failures=0 tries them again" if failed else ""
    level = logging.DEBUG if folder in _done_here else logging.INFO
    log.log(level, "%s: already done%s -> %s", label(run), told, folder)
    _done_here.add(folder)
    return found


def _finished(folder: Path, allowed: int) -> Result | None:
    """The result that is there, unless more utterances failed than are allowed."""
    found = store.read(folder)
    return None if found is None or len(found.values["failures"]) > allowed else found


def _do(
    settings: Settings, config: Mapping[str, Any], run: dict[str, Any], folder: Path, overrides: list[str]
) -> Result:
    """A run that is not finished, noted as failed if it fails."""
    write_atomically(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    (folder / store.FAILED).unlink(missing_ok=True)
    with _logged_to(folder / "run.log"):
        try:
            result = _run(settings, run, folder, overrides)
        except Exception as error:
            log.debug("the run failed", exc_info=True)
            write_atomically(folder / store.FAILED, f"{label(run)}: {type(error).__name__}: {error}\n")
            raise
    _done_here.add(folder)
    return result


def _run(settings: Settings, run: dict[str, Any], folder: Path, overrides: list[str]) -> Result:
    torch.set_num_threads(settings.threads)
    began = time.perf_counter()
    records = Records(folder / "batches.jsonl")
    inline = (settings.metrics or {}).get("when", "inline") == "inline" or not is_built(settings.codec)
    job = Job(run, replace(Decoding(**settings.decoding), batch_size=settings.together), settings.seed, folder, inline)
    executor = _executor(settings, job)
    lines = _decode_all(executor, records, settings, label(run), began)
    described, peak_memory = executor.described(), executor.peak_memory_bytes()
    if not inline:
        lines = rescore.scored(run, folder, lines, executor.score)
    values = {
        "schema": SCHEMA,
        "run_id": folder.name,
        "study": settings.study,
        "label": label(run),
        "method": method(run),
        "overrides": overrides,
        "config": run,
        "git": environment.git(),
        "versions": environment.versions(),
        "device": environment.device_name(torch.device(run["device"])),
        "devices": settings.devices,
        "started": records.lines[0]["at"],
        **described,
        "wall_seconds": sum(line["wall"] for line in records.lines),
        **summarise(run, lines, rescore.figures_of(executor.metrics)),
    }
    values["speed"]["peak_memory_bytes"] = peak_memory
    result = store.write(folder, values, lines)
    _tell_left_out(values["left_out"], values["counts"]["utterances"])
    log.info("%s", store.one_line(result))
    _tell_logger(settings.logger, result, store.utterance_rows(lines))
    return result


def _executor(settings: Settings, job: Job) -> Executor:
    """What holds models for other runs than this kind is let go, so that no device holds two copies."""
    if settings.devices == 1:
        devices.shut_down()
        return InProcess(job, _memo)
    parts.release_models()
    return OverDevices(job, devices.pool(job.run["device"], settings.devices, settings.threads))


def _decode_all(
    executor: Executor, records: Records, settings: Settings, name: str, began: float
) -> list[dict[str, Any]]:
    """Decode the batches that have no good record yet, appending each as it finishes; returns the record of each."""
    cut = batches(executor.dataset, settings.together)
    good = {line["batch"]: line for line in of_batches(records.lines, cut) if _failures(line) == 0}
    pending = [index for index in range(len(cut)) if index not in good]
    if not pending:
        return list(good.values())
    failures = 0

    def stopping() -> bool:
        return interrupted.is_set() or failures > settings.max_failures

    with LiveView(name, sum(len(cut[i]) for i in pending), settings.devices) as view, _finish_first() as interrupted:
        for line in good.values():
            view.count(line)
        with closing(executor.decode(pending, stopping)) as decoded:  # whatever happens, nobody is left at work
            for done in decoded:
                now = time.perf_counter()
                records.append({"batch": done.index, "at": done.at, "wall": now - began, **done.record})
                began = now
                view.add(done.record)
                failures += _failures(done.record)
        if failures > settings.max_failures:
            raise RunFailed(_summary(of_batches(records.lines, cut), settings.max_failures))
        if interrupted.is_set():
            raise KeyboardInterrupt
    lines = of_batches(records.lines, cut)
    if len(lines) < len(cut):
        raise RunFailed("the dataset changed while it was decoded; the same command begins anew")
    if all(_failures(line) == len(line["rows"]) for line in lines):
        raise RunFailed(_summary(lines, settings.max_failures))
    return lines


def _failures(record: Mapping[str, Any]) -> int:
    return sum(row["error"] is not None for row in record["rows"])


def _summary(lines: Sequence[Mapping[str, Any]], allowed: int) -> str:
    failed = [row for line in lines for row in line["rows"] if row["error"] is not None]
    listed = "".join(f"\n  - {row['utterance']}: {row['error']}" for row in failed[:10])
    return f"{len(failed)} utterance(s) failed (max_failures={allowed}):{listed}"


def _tell_left_out(left_out: Sequence[Mapping[str, Any]], utterances: int) -> None:
    figures: dict[tuple[int, str], list[str]] = {}
    for each in left_out:
        figures.setdefault((each["utterances"], each["reason"]), []).append(each["figure"])
    for (count, reason), names in figures.items():
        log.warning("%s: without %d of %d utterances, since %s", ", ".join(names), count, utterances, reason)


def _tell_logger(logger: Mapping[str, Any] | None, result: Result, rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it took the result, which is on disk; a logger that fails is reported and costs nothing else."""
    if not is_built(logger):
        return True
    try:
        build(logger).log(result, rows, Path(result.folder))
    except Exception as error:
        log.warning(
            "the logger failed (%s: %s). The result is safe in %s; log it again with "
            "`pcg relog study=%s`",
            type(error).__name__, error, result.folder, result.values["study"],
        )  # fmt: skip
        log.debug("the logger failed", exc_info=True)
        return False
    return True


def log_again(study_folder: Path, logger: Mapping[str, Any] | None) -> None:
    """Tell a logger of every finished run of a study.

    Raises:
        ValueError: there is none.
        RuntimeError: it did not take some of them; why has been logged.
    """
    results = store.read_study(study_folder)
    if not results:
        raise ValueError(f"{study_folder}: no finished runs")
    lost = 0
    for result in results:
        if _tell_logger(logger, result, store.read_utterances(Path(result.folder))):
            log.info("logged %s", result.folder)
        else:
            lost += 1
    if lost:
        raise RuntimeError(f"{lost} of {len(results)} runs could not be logged")


@contextmanager
def _logged_to(path: Path) -> Iterator[None]:
    """Everything of any level that pcg says goes to the run's log, with times; warnings of others too."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    handler.addFilter(lambda record: record.name.startswith("pcg") or record.levelno >= logging.WARNING)
    root, before = logging.getLogger(), log.level
    root.addHandler(handler)
    log.setLevel(logging.DEBUG)
    try:
        yield
    finally:
        log.setLevel(before)
        root.removeHandler(handler)
        handler.close()


@contextmanager
def _finish_first() -> Iterator[threading.Event]:
    """The first Ctrl-C sets the event, so that the current batch is finished; a second one interrupts at once."""
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def on_interrupt(_number: int, _frame: Any) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        log.warning("finishing the current utterances; Ctrl-C again stops at once")
        asked.set()

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
