"""One run: parse, decode, score, write. Each batch is on disk before anything else happens to it."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
import yaml

from pcg.config.run import Run, parse
from pcg.results import environment, lock, store
from pcg.results.records import Records, of_batches, write_atomically
from pcg.results.rows import utterance_rows
from pcg.results.schema import SCHEMA, summarise
from pcg.runner import devices, rescore, tracking
from pcg.runner.jobs import DecodeJob, Executor, InProcess, batches
from pcg.runner.loading import check_voices, load_dataset, metrics_of, release_models, with_dataset
from pcg.runner.process import finish_batch_on_ctrl_c, logged_to
from pcg.runner.progress import LiveView, SoFar
from pcg.runner.scores import ScoreMemo
from pcg.types import Figure, Result

log = logging.getLogger("pcg")
_memo = ScoreMemo()
_done_here: set[Path] = set()


class RunFailed(RuntimeError):
    """A run in which more utterances failed than ``max_failures`` allows; the message lists them."""


def run_once(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> Result:
    """Do a run, or the part of it that is not done yet, and return its result.

    A finished run is not done again, unless more of its utterances failed than ``max_failures`` now allows: then these
    are tried again. While another process does the same run this one waits, and returns that result.

    Args:
        config: resolved, plain values (``pcg.command.cli.plain``).
        overrides: those of the command line, which the result records.

    Raises:
        ConfigError: the config cannot run.
        RunFailed: too many utterances failed. The others stay on disk; the same command tries the failed ones again.
        KeyboardInterrupt: after Ctrl-C, when the current batch is finished. The same command goes on from there.
    """
    run = with_dataset(parse(config, fetch=True))
    check_voices(run)
    folder, allowed = run.settings.study_folder / run.id, run.settings.max_failures
    result = _finished(folder, allowed)
    if result is None:
        folder.mkdir(parents=True, exist_ok=True)
        with lock.held(folder, run.label):
            result = _finished(folder, allowed)  # another process may have done it meanwhile
            if result is None:
                return _do(run, config, folder, list(overrides))
    failed = len(result.values["failures"])
    advice = f", {failed} failed; max_failures=0 tries them again" if failed else ""
    level = logging.DEBUG if folder in _done_here else logging.INFO
    log.log(level, "%s: already done%s -> %s", run.label, advice, folder)
    _done_here.add(folder)
    tracking.log_for_agent(run.settings.logger, result, run.settings.objective)
    return result


def _finished(folder: Path, allowed: int) -> Result | None:
    """The result in a folder; None where there is none, or where more utterances failed than are allowed."""
    result = store.read(folder)
    return None if result is None or len(result.values["failures"]) > allowed else result


def _do(run: Run, config: Mapping[str, Any], folder: Path, overrides: list[str]) -> Result:
    """Do a run that is not finished; where it fails the reason is written to ``store.FAILED``."""
    write_atomically(folder / "config.yaml", yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True))
    (folder / store.FAILED).unlink(missing_ok=True)
    with logged_to(folder / "run.log"):
        try:
            result = _decode_and_write(run, folder, overrides)
        except Exception as error:
            log.debug("the run failed", exc_info=True)
            write_atomically(folder / store.FAILED, f"{run.label}: {type(error).__name__}: {error}\n")
            raise
    _done_here.add(folder)
    return result


def _decode_and_write(run: Run, folder: Path, overrides: list[str]) -> Result:
    torch.set_num_threads(run.settings.threads)
    began = time.perf_counter()
    about = _about(run, folder, overrides)
    with tracking.Tracker(run.settings.logger, about, folder, run.settings.objective) as tracker:
        records = Records(folder / "batches.jsonl")
        declared = rescore.figures_of(metrics_of(run))
        executor = _executor(run)
        executor.begin(DecodeJob(run, folder))
        lines = _decode(run, executor, records, declared, tracker, began)
        described, peak_memory = executor.described(), executor.peak_memory_bytes()
        if not run.settings.scored_inline:
            lines = rescore.scored(run.metrics, run.dataset, folder, lines, executor)
        values = {
            **about,
            "started": records.lines[0]["at"],
            **described,
            "wall_seconds": sum(line["wall"] for line in records.lines),
            **summarise(run.values, lines, declared),
        }
        values["speed"]["peak_memory_bytes"] = peak_memory if run.engine is None else None  # else an engine holds it
        result = store.write(folder, values, lines)
        _warn_of_left_out(values["left_out"], values["counts"]["utterances"])
        log.info("%s", store.one_line(result))
        tracker.finish(result, utterance_rows(lines))
    return result


def _about(run: Run, folder: Path, overrides: list[str]) -> dict[str, Any]:
    """What the result says of a run that is known before it decodes."""
    return {
        "schema": SCHEMA,
        "run_id": folder.name,
        "study": run.settings.study,
        "label": run.label,
        "method": run.method,
        "overrides": overrides,
        "config": run.values,
        **environment.about(run.device),
        "devices": run.settings.devices,
    }


def _executor(run: Run) -> Executor:
    """What does the run's batches. Models that the other kind of executor holds are let go, so that no device holds two
    copies."""
    if run.settings.devices == 1:
        devices.shut_down()
        return InProcess(run.device, _memo)
    release_models()
    return devices.pool(str(run.device), run.settings.devices, run.settings.threads)


def _decode(
    run: Run,
    executor: Executor,
    records: Records,
    declared: Mapping[str, Figure],
    tracker: tracking.Tracker,
    began: float,
) -> list[dict[str, Any]]:
    """Decode the batches that have no good record yet, appending each when it is finished; returns every record."""
    cut = batches(load_dataset(run.dataset), run.settings.together)
    good = {line["batch"]: line for line in of_batches(records.lines, cut) if _failures(line) == 0}
    pending = [index for index in range(len(cut)) if index not in good]
    so_far = SoFar(sum(map(len, cut)), declared)
    for line in records.lines:  # of earlier starts
        tracker.add(line, so_far)
    if not pending:
        return list(good.values())
    failures, allowed = 0, run.settings.max_failures
    with LiveView(run.label, so_far, run.settings.devices) as view, finish_batch_on_ctrl_c() as interrupted:

        def stopping() -> bool:
            return interrupted.is_set() or failures > allowed

        with closing(executor.do(pending, stopping)) as decoded:  # after any error busy workers are stopped
            for done in decoded:
                now = time.perf_counter()
                records.append({"batch": done.index, "at": done.at, "wall": now - began, **done.record})
                began = now
                tracker.add(records.lines[-1], so_far)
                view.show()
                failures += _failures(done.record)
        if failures > allowed:
            raise RunFailed(_summary(of_batches(records.lines, cut), allowed))
        if interrupted.is_set():
            raise KeyboardInterrupt
    lines = of_batches(records.lines, cut)
    if len(lines) < len(cut):
        raise RunFailed("the dataset changed while the run decoded; start the same command again")
    if all(_failures(line) == len(line["rows"]) for line in lines):
        raise RunFailed(_summary(lines, allowed))
    return lines


def _failures(record: Mapping[str, Any]) -> int:
    return sum(row["error"] is not None for row in record["rows"])


def _summary(lines: Sequence[Mapping[str, Any]], allowed: int) -> str:
    failed = [row for line in lines for row in line["rows"] if row["error"] is not None]
    listed = "".join(f"\n  - {row['utterance']}: {row['error']}" for row in failed[:10])
    return f"{len(failed)} utterance(s) failed (max_failures={allowed}):{listed}"


def _warn_of_left_out(left_out: Sequence[Mapping[str, Any]], utterances: int) -> None:
    figures: dict[tuple[int, str], list[str]] = {}
    for entry in left_out:
        figures.setdefault((entry["utterances"], entry["reason"]), []).append(entry["figure"])
    for (count, reason), names in figures.items():
        log.warning("%s: without %d of %d utterances, since %s", ", ".join(names), count, utterances, reason)
