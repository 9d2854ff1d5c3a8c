"""An engine's processes and the run that began them end together."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from pcg.processes import RUN, exit_when_told_to_end

# A run, and a process of its engine, which holds the run's output open until it has ended.
RUN_AND_ENGINE = textwrap.dedent("""
    import multiprocessing, os, time
    from pcg.processes import RUN, end_with_the_parent

    def engine():
        end_with_the_parent()
        print("started", flush=True)
        time.sleep(60)

    if {begun}:
        os.environ[RUN] = str(os.getpid())
    multiprocessing.get_context("fork").Process(target=engine).start()
""")


def begun(told: bool) -> subprocess.Popen[bytes]:
    env = {key: value for key, value in os.environ.items() if key != RUN}
    run = subprocess.Popen(
        [sys.executable, "-c", RUN_AND_ENGINE.format(begun=told)], stdout=subprocess.PIPE, env=env,
        start_new_session=True,
    )  # fmt: skip
    assert run.stdout is not None
    assert run.stdout.readline() == b"started\n"
    return run


def test_an_engine_ends_with_a_run_that_had_no_time_to_end_it() -> None:
    run = begun(told=True)
    run.kill()
    assert run.communicate(timeout=20)[0] == b""  # whoever held it has ended


def test_an_engine_that_no_run_has_begun_is_left_alone() -> None:
    run = begun(told=False)
    run.kill()
    with pytest.raises(subprocess.TimeoutExpired):
        run.communicate(timeout=1)
    os.killpg(run.pid, signal.SIGKILL)
    assert run.communicate(timeout=20)[0] == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_a_run_ends_what_it_has_begun(number: signal.Signals) -> None:
    """By the finalizers of its exit, which a second signal does not cut short."""
    code = f"""
        import os, signal, time, weakref
        from pcg.processes import exit_when_told_to_end
        signal.signal({number:d}, signal.SIG_DFL)  # whatever the tests themselves were started by: nohup ignores it
        class Engine: ...
        engine = Engine()
        def end():
            os.kill(os.getpid(), {number:d})
            print("ended", flush=True)
        stop = weakref.finalize(engine, end)
        exit_when_told_to_end()
        os.kill(os.getpid(), {number:d})
        time.sleep(60)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (128 + number, b"ended\n")


def test_a_signal_that_somebody_else_handles_stays_theirs() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    term = signal.getsignal(signal.SIGTERM)
    try:
        exit_when_told_to_end()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
        signal.signal(signal.SIGTERM, term)
