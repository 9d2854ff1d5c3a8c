"""The plugin that vLLM loads in each of its processes, by the entry point ``vllm.general_plugins``.

It replaces functions of vLLM. The check of a configuration refuses settings that a rule cannot work with; the samplers
of both model runners use the rule where the configuration has ``additional_config={"pcg": ...}``; logits are masked
where it has allowed tokens (``allowed``). Without these keys vLLM is unchanged. Use one engine in a process: with two,
the first runner uses the rule of the later one.
"""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Mapping
from typing import Any

import torch

from pcg.engines.settings import described, node_of, rule_of
from pcg.engines.vllm import allowed, v1, v2
from pcg.interfaces import Rule
from pcg.processes import end_with_the_parent

KEY = "pcg"
TRIED = ("0.32.0",)  # versions with these signatures, with which `make test-vllm` passes
log = logging.getLogger("vllm.pcg")  # a child of vLLM's logger, so that it is shown


def register() -> None:
    """Replaces vLLM's functions, once in a process."""
    from vllm.config import VllmConfig

    if registered():
        return
    end_with_the_parent()
    strange = _strangeness()
    if not strange:
        _into_the_first_runner()
        _into_the_second_runner()
        _into_the_logits()
    VllmConfig.__post_init__ = _before(VllmConfig.__post_init__, lambda config: check(config, strange))


def registered() -> bool:
    """Whether ``register`` has been called in this process."""
    from vllm.config import VllmConfig

    return hasattr(VllmConfig.__post_init__, "__wrapped__")


def check(config: Any, strange: str = "") -> None:
    """Checks that a rule can decide about the drafts of this configuration, if it has a rule.

    Args:
        strange: how this vLLM differs from the tested versions; empty if it does not.

    Raises:
        ConfigError, ValueError: a setting is wrong; the message says what to write instead.
    """
    settings, only = settings_of(config), settings_of(config, allowed.KEY)
    if strange and (settings is not None or only is not None):
        raise ValueError(
            f"pcg: {strange}. Install a tested version (vLLM {', '.join(TRIED)}), or run without pcg: leave out "
            f"{KEY!r} and {allowed.KEY!r}"
        )
    if only is not None:
        allowed.check(only)
    if settings is None:
        return
    node_of(settings)
    drafts = config.speculative_config
    if drafts is None:
        raise ValueError(
            'pcg: a rule needs a draft: --speculative-config is required, such as \'{"method": "draft_model", '
            '"model": ..., "num_speculative_tokens": 3, "draft_sample_method": "probabilistic"}\''
        )
    if drafts.draft_sample_method != "probabilistic":
        raise ValueError(
            f"pcg: draft_sample_method={drafts.draft_sample_method!r} gives no probabilities of drafts, which every "
            'rule needs: set "draft_sample_method": "probabilistic" in --speculative-config'
        )
    if drafts.rejection_sample_method != "standard":
        raise ValueError(
            f"pcg: rejection_sample_method={drafts.rejection_sample_method!r} is a rule of vLLM's own; leave it out"
        )


def settings_of(config: Any, key: str = KEY) -> Any:
    """A configuration's settings of the rule, or of another key; None without them."""
    additional = getattr(config, "additional_config", None)
    return additional.get(key) if isinstance(additional, Mapping) else None


def make_rule(config: Any, device: torch.device) -> Rule | None:
    """The rule of a configuration, which is also logged; None without a rule."""
    settings = settings_of(config)
    if settings is None:
        return None
    model = config.model_config
    rule = rule_of(settings, model.model, model.get_vocab_size(), device)
    log.info("pcg decides about drafts: %s", described(rule))
    return rule


def _into_the_first_runner() -> None:
    from vllm import config
    from vllm.v1.sample import rejection_sampler as module

    exact, expand = module.rejection_sample, module.expand_batch_to_tokens

    def choose(_made: Any, *arguments: Any, **named: Any) -> None:
        """When a runner makes its sampler: installs the rule of its configuration, or vLLM's own."""
        device = named.get("device", arguments[2] if len(arguments) > 2 else None)
        device = torch.device("cpu") if device is None else torch.device(device)
        rule = make_rule(config.get_current_vllm_config(), device)
        module.rejection_sample = exact if rule is None else v1.RejectionSample(rule, exact)
        broken = rule is not None and device.type == "cpu"
        module.expand_batch_to_tokens = v1.expand_batch_to_tokens if broken else expand

    module.RejectionSampler.__init__ = _after(module.RejectionSampler.__init__, choose)


def _into_the_second_runner() -> None:
    from vllm.v1.worker.gpu.model_states.interface import ModelState

    def custom_sampler(state: Any, sampler: Any) -> tuple[Any, Any] | None:
        rule = make_rule(state.vllm_config, state.device)
        if rule is None:
            return None
        from pcg.engines.vllm.v2_sampler import RuleSampler

        return sampler, RuleSampler(rule, sampler, state.vllm_config.speculative_config, state.device)

    ModelState.custom_sampler = custom_sampler


def _into_the_logits() -> None:
    from vllm import config
    from vllm.model_executor.layers.logits_processor import LogitsProcessor

    own = LogitsProcessor.forward

    def choose(layer: Any, *_arguments: Any, **_named: Any) -> None:
        """When a model is made, target or draft: computes its mask of tokens that are not allowed."""
        current = config.get_current_vllm_config()
        only = settings_of(current, allowed.KEY)
        if layer.org_vocab_size == _reduced(current):  # a head of speech alone (``pcg export``)
            only = None
        layer.pcg_barred = only and allowed.barred(only, layer.org_vocab_size, current.device_config.device)

    @functools.wraps(own)
    def forward(layer: Any, *arguments: Any, **named: Any) -> Any:
        logits = own(layer, *arguments, **named)
        if logits is not None and layer.pcg_barred is not None:
            logits.masked_fill_(layer.pcg_barred, -torch.inf)
        return logits

    LogitsProcessor.__init__ = _after(LogitsProcessor.__init__, choose)
    LogitsProcessor.forward = forward


def _reduced(config: Any) -> int | None:
    """Number of rows of a draft's head, if these are fewer than the target's tokens; else None."""
    draft = getattr(config.speculative_config, "draft_model_config", None)
    rows = getattr(getattr(draft, "hf_config", None), "draft_vocab_size", None)
    return None if rows == config.model_config.get_vocab_size() else rows


def _strangeness() -> str:
    """How this vLLM's functions differ from the tested versions; empty if they do not."""
    import vllm

    version = vllm.__version__
    try:
        from vllm.model_executor.layers.logits_processor import LogitsProcessor
        from vllm.v1.sample.rejection_sampler import RejectionSampler, expand_batch_to_tokens, rejection_sample
        from vllm.v1.worker.gpu.model_states.interface import ModelState
        from vllm.v1.worker.gpu.spec_decode.rejection_sampler import RejectionSampler as Second
    except ImportError as error:
        return f"vLLM {version} lacks a module of the tested versions ({error})"
    wanted = (
        (rejection_sample, v1.SIGNATURE),
        (RejectionSampler.__init__, ("self", "sampler", "spec_config", "device")),
        (expand_batch_to_tokens, tuple(inspect.signature(v1.expand_batch_to_tokens).parameters)),
        (Second.__init__, ("self", "sampler", "spec_config", "device", "watermark_key")),
        (Second._verify, v2.SIGNATURE),
        (ModelState.custom_sampler, ("self", "sampler")),
        (LogitsProcessor.forward, allowed.SIGNATURE),
    )
    other = [made.__qualname__ for made, names in wanted if tuple(inspect.signature(made).parameters) != names]
    return f"in vLLM {version} {', '.join(other)} has other arguments than in the tested versions" if other else ""


def _before(function: Callable[..., Any], first: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def both(self: Any, *arguments: Any, **named: Any) -> Any:
        first(self)
        return function(self, *arguments, **named)

    return both


def _after(function: Callable[..., Any], then: Callable[..., None]) -> Callable[..., Any]:
    @functools.wraps(function)
    def both(self: Any, *arguments: Any, **named: Any) -> None:
        function(self, *arguments, **named)
        then(self, *arguments, **named)

    return both
