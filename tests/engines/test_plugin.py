"""How the plugin gets into vLLM, on modules that look like vLLM's: what it refuses, and what it leaves alone."""

from __future__ import annotations

import inspect
import logging
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pcg.acceptance.exact import Exact
from pcg.config.validate import ConfigError
from pcg.engines.vllm import allowed, plugin, v1, v2
from pcg.engines.vllm.penalties import warn_of_penalties

SETTINGS = {"rule": "ssd", "beta": 0.2}


def function(names: tuple[str, ...]) -> Any:
    """One that takes these arguments and tells that vLLM's own was called."""
    space: dict[str, Any] = {}
    exec(f"def own({', '.join(f'{name}=None' for name in names)}): return 'own'", space)
    return space["own"]


def drafts(**changes: Any) -> SimpleNamespace:
    return SimpleNamespace(**{"draft_sample_method": "probabilistic", "rejection_sample_method": "standard", **changes})


class Config:
    def __init__(self, additional: Any = None, speculative: Any = None) -> None:
        self.additional_config, self.speculative_config = additional or {}, speculative
        self.model_config = SimpleNamespace(model="none", get_vocab_size=lambda: 8)
        self.device_config = SimpleNamespace(device="cpu")
        self.__post_init__()

    def __post_init__(self) -> None:
        self.checked = True


class LogitsProcessor:
    """The layer that makes the logits of a model; here they are what goes in."""

    def __init__(self, vocab_size: int, org_vocab_size: int | None = None) -> None:
        self.org_vocab_size = org_vocab_size or vocab_size

    def forward(self, lm_head: Any, hidden_states: Any, embedding_bias: Any = None, skip_gather: bool = False) -> Any:
        return hidden_states


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    """Modules by name, as in the version that was tried."""
    sampler = type("RejectionSampler", (), {"__init__": function(("self", "sampler", "spec_config", "device"))})
    second = type("RejectionSampler", (), {
        "__init__": function(("self", "sampler", "spec_config", "device", "watermark_key")),
        "_verify": function(v2.SIGNATURE),
    })  # fmt: skip
    layer = type("LogitsProcessor", (), {key: vars(LogitsProcessor)[key] for key in ("__init__", "forward")})
    config = type("VllmConfig", (Config,), {"__post_init__": lambda self: Config.__post_init__(self)})
    expand = tuple(inspect.signature(v1.expand_batch_to_tokens).parameters)
    contents: dict[str, dict[str, Any]] = {
        "vllm": {"__version__": "0.32.0"}, "vllm.v1": {}, "vllm.v1.sample": {}, "vllm.v1.worker": {},
        "vllm.v1.worker.gpu": {},
        "vllm.v1.worker.gpu.spec_decode": {}, "vllm.v1.worker.gpu.model_states": {},
        "vllm.config": {"VllmConfig": config},
        "vllm.model_executor": {}, "vllm.model_executor.layers": {},
        "vllm.model_executor.layers.logits_processor": {"LogitsProcessor": layer},
        "vllm.v1.sample.rejection_sampler": {
            "RejectionSampler": sampler, "rejection_sample": function(v1.SIGNATURE),
            "expand_batch_to_tokens": function(expand),
        },
        "vllm.v1.worker.gpu.model_states.interface": {
            "ModelState": type("ModelState", (), {"custom_sampler": function(("self", "sampler"))})
        },
        "vllm.v1.worker.gpu.spec_decode.rejection_sampler": {"RejectionSampler": second},
    }  # fmt: skip
    made = {}
    for name, content in contents.items():
        made[name] = ModuleType(name)
        vars(made[name]).update(content)
        monkeypatch.setitem(sys.modules, name, made[name])
        if "." in name:
            parent, _, leaf = name.rpartition(".")
            setattr(made[parent], leaf, made[name])
    return made


def first_runner(vllm: dict[str, ModuleType], config: Config, device: str = "cpu") -> ModuleType:
    """What is in the module after a runner with this configuration has made its sampler."""
    vllm["vllm.config"].get_current_vllm_config = lambda: config
    module = vllm["vllm.v1.sample.rejection_sampler"]
    module.RejectionSampler(object(), config.speculative_config, torch.device(device))
    return module


def test_without_the_key_all_is_vllms(vllm: dict[str, ModuleType]) -> None:
    plugin.register()
    config = vllm["vllm.config"].VllmConfig()
    assert config.checked
    module = first_runner(vllm, config)
    assert module.rejection_sample() == module.expand_batch_to_tokens() == "own"
    state = SimpleNamespace(vllm_config=config, device=torch.device("cpu"))
    assert vllm["vllm.v1.worker.gpu.model_states.interface"].ModelState.custom_sampler(state, object()) is None


def test_the_rule_decides_and_is_told(vllm: dict[str, ModuleType], caplog: pytest.LogCaptureFixture) -> None:
    plugin.register()
    plugin.register()  # vLLM may call it again
    config = vllm["vllm.config"].VllmConfig({"pcg": SETTINGS}, drafts())
    with caplog.at_level(logging.INFO, "vllm.pcg"):
        module = first_runner(vllm, config)
    assert isinstance(module.rejection_sample, v1.RejectionSample)
    assert caplog.messages == ["pcg decides about drafts: ssd beta=0.2"]
    assert module.expand_batch_to_tokens is v1.expand_batch_to_tokens  # a CPU's is broken
    without = first_runner(vllm, vllm["vllm.config"].VllmConfig())
    assert without.rejection_sample() == without.expand_batch_to_tokens() == "own"


@pytest.mark.parametrize(
    ("settings", "speculative", "told"),
    [
        ({"rule": "sdd"}, drafts(), "does not exist; did you mean 'ssd'"),
        (SETTINGS, None, '--speculative-config is required, such as \'{"method"'),
        (SETTINGS, drafts(draft_sample_method="greedy"), 'set "draft_sample_method": "probabilistic" in'),
        (SETTINGS, drafts(rejection_sample_method="block"), "rejection_sample_method='block' is a rule of vLLM's own"),
    ],
)
def test_what_a_rule_cannot_work_with_is_refused_at_once(
    vllm: dict[str, ModuleType], settings: dict[str, Any], speculative: Any, told: str
) -> None:
    plugin.register()
    with pytest.raises((ConfigError, ValueError), match=told):
        vllm["vllm.config"].VllmConfig({"pcg": settings}, speculative)


def logits(vllm: dict[str, ModuleType], config: Config, rows: int) -> torch.Tensor:
    """What a model of this configuration makes of logits 0, 1, ..."""
    vllm["vllm.config"].get_current_vllm_config = lambda: config
    layer = vllm["vllm.model_executor.layers.logits_processor"].LogitsProcessor(rows)
    assert layer.forward(None, None) is None  # as on all but one of several devices
    return layer.forward(None, torch.arange(float(rows)).repeat(2, 1))


def test_only_what_is_allowed_has_a_probability(vllm: dict[str, ModuleType]) -> None:
    """In each model, with or without a rule; ranges go beyond the tokens of neither."""
    plugin.register()
    some = vllm["vllm.config"].VllmConfig({"pcg_allowed_token_ids": [[1, 2], [3, 9]]})
    never = -torch.inf
    assert logits(vllm, some, 5).tolist() == [[never, 1, never, 3, 4]] * 2
    assert logits(vllm, vllm["vllm.config"].VllmConfig(), 5).tolist() == [[0, 1, 2, 3, 4]] * 2


def test_a_head_of_speech_alone_is_left_as_it_is(vllm: dict[str, ModuleType]) -> None:
    """Its rows are not the model's ids."""
    plugin.register()
    head = SimpleNamespace(hf_config=SimpleNamespace(draft_vocab_size=5))
    some = vllm["vllm.config"].VllmConfig({"pcg_allowed_token_ids": [[1, 2], [3, 9]]})
    some.speculative_config = SimpleNamespace(draft_model_config=head)
    assert logits(vllm, some, 5).tolist() == [[0, 1, 2, 3, 4]] * 2
    assert logits(vllm, some, 8)[0, :3].tolist() == [-torch.inf, 1, -torch.inf]  # the target's


@pytest.mark.parametrize("value", [[], [1, 2], [[1]], [[2, 1]], [[-1, 1]], [["a", "b"]], "speech"])
def test_what_is_no_range_of_tokens_is_refused(vllm: dict[str, ModuleType], value: Any) -> None:
    plugin.register()
    with pytest.raises(ValueError, match="pcg_allowed_token_ids="):
        vllm["vllm.config"].VllmConfig({"pcg_allowed_token_ids": value})


def test_ids_as_ranges() -> None:
    assert allowed.ranges_of(torch.tensor([5, 6, 7, 9, 2])) == [[2, 3], [5, 8], [9, 10]]
    assert allowed.ranges_of(torch.tensor([4])) == [[4, 5]]


@pytest.mark.parametrize("change", ["arguments", "place"])
def test_another_vllm_is_refused_where_a_rule_is_asked_for(vllm: dict[str, ModuleType], change: str) -> None:
    """Never silently vLLM's own rule; and who does not ask for one is left in peace."""
    module = vllm["vllm.v1.sample.rejection_sampler"]
    if change == "arguments":
        module.rejection_sample = function((*v1.SIGNATURE, "another"))
    else:
        del module.expand_batch_to_tokens
    plugin.register()
    assert vllm["vllm.config"].VllmConfig().checked
    with pytest.raises(ValueError, match=r"pcg: .*vLLM 0.32.0 .*Install a tested version"):
        vllm["vllm.config"].VllmConfig({"pcg": SETTINGS}, drafts())
    with pytest.raises(ValueError, match=r"pcg: .*vLLM 0.32.0 .*Install a tested version"):
        vllm["vllm.config"].VllmConfig({"pcg_allowed_token_ids": [[0, 1]]})


def test_the_second_runner_warns_of_penalties_once(
    vllm: dict[str, ModuleType], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever slot of the engine the request with a penalty has."""
    name = "pcg.engines.vllm.v2_sampler"
    monkeypatch.setitem(sys.modules, name, ModuleType(name))  # forgotten afterwards: its base is the fixture's
    del sys.modules[name]
    from pcg.engines.vllm.v2_sampler import RuleSampler

    sampler = RuleSampler.__new__(RuleSampler)
    sampler.rule = Exact()
    warn_of_penalties.cache_clear()
    sampler.sampler = SimpleNamespace(
        penalties_state=SimpleNamespace(use_penalty=np.array([False, False, True])),
        sampling_states=SimpleNamespace(temperature=SimpleNamespace(np=np.zeros(3))),
    )
    warned = []
    with caplog.at_level(logging.WARNING, "vllm.pcg"):
        for slots in ([0, 1], [1, 2], [2]):
            arguments = dict.fromkeys(v2.SIGNATURE[1:]) | {"idx_mapping_np": np.array(slots)}
            assert sampler._verify(**arguments) == "own"  # greedy requests alone
            warned.append(len(caplog.records))
    assert warned == [0, 1, 1]
