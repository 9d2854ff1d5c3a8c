"""Passes and rules of fixed shape say the tokens that the plain ones say; how many graphs they take is counted.

``test_graphs.py`` runs these in a process of their own: dynamo does not see through checks of types.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

from pcg.acceptance.dropmatch import DropMatch
from pcg.acceptance.exact import Exact
from pcg.acceptance.pcg import PCG
from pcg.config.validate import ConfigError
from pcg.decoding import autoregressive
from pcg.decoding.clock import Clock, compiling
from pcg.decoding.graphs import Graphs
from pcg.decoding.rows import Batch, Prompt
from pcg.decoding.speculative import speculative_decode
from pcg.models.eagle import EagleLM
from pcg.models.layers import LayersLM
from pcg.models.llama import LlamaLM
from pcg.models.ngram import NGram
from pcg.models.phonemes import Phonemes
from pcg.runner.composition import Composition, _compiled
from pcg.sampling import RAS, Randomness, Sampling, as_keys, draw
from pcg.training.students import EagleDraft
from pcg.training.teacher import Teacher
from pcg.types import Utterance
from tests.acceptance.harness import RULES, table
from tests.fakes import make_bundled_folder

TEXTS = ("Yes sir, the fox.", "Who is there?", "Come here now, please.", "The cat sat.", "No.", "A dog ran off.",
         "Where to?", "It rains on us all day.")  # fmt: skip
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        for module in ("llama", "eagle"):
            patch.setattr(f"pcg.models.{module}.choose", lambda *_: "plain")
        root = tmp_path_factory.mktemp("graphs")
        for name, layers in (("target", 2), ("draft", 1)):
            make_bundled_folder(root / name, layers=layers, seed=layers)
        target, draft = (LlamaLM(str(root / n), Phonemes(str(root / n)), "float32", "cpu", "speech")
                         for n in ("target", "draft"))  # fmt: skip
        teacher, maker = Teacher(str(target.folder), target.text.speech_ids), EagleDraft([0, 1, 2])
        maker.save(maker.make(teacher), root / "eagle", teacher)
        eagle = EagleLM(str(root / "eagle"), target, "float32", "cpu")
    return {"target": target, "draft": draft, "eagle": eagle, "layers": LayersLM(target, 1, "last")}


class Noting:
    """A backend that runs dynamo's graphs as they are, and notes what goes in and what is made."""

    def __init__(self) -> None:
        self.moving: list[int] = []
        self.dtypes: set[torch.dtype] = set()

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[torch.Tensor]) -> Any:
        places = [node for node in graph.graph.nodes if node.op == "placeholder"]
        for node, given in zip(places, inputs, strict=True):
            fixed = node.meta.get("tensor_dict", {}).get("_dynamo_static_input_type")
            if isinstance(given, torch.Tensor) and fixed is None:
                self.moving.append(given.numel())
        made = [node.meta.get("example_value") for node in graph.graph.nodes]
        self.dtypes.update(each.dtype for each in made if isinstance(each, torch.Tensor))
        return graph.forward


@pytest.fixture(scope="module")
def noted() -> Noting:
    return Noting()


@pytest.fixture(scope="module")
def graphed(plain: dict[str, Any], noted: Noting) -> dict[str, Any]:
    graphs = Graphs(CPU, backend=noted)
    return {name: graphs.of_model(model) for name, model in plain.items()} | {"graphs": graphs}


def said(target: Any, draft: Any, rule: Any, batch: int, limit: int = 20, seed: int = 0) -> list[list[int]]:
    texts = TEXTS[:batch]
    prompts = [Prompt(Utterance(text, text), torch.arange(9 + place)) for place, text in enumerate(texts)]
    sampling = Sampling(0.9) if batch == 1 else Sampling(0.9, repetition_penalty=1.2, ras=RAS(4, 0.5))
    common = {"sampling": sampling, "max_tokens": limit, "randomness": Randomness(seed, as_keys(texts, CPU))}
    if draft is None:
        found = autoregressive.decode(target, Batch(prompts, **common))
    else:
        found = speculative_decode(target, draft, rule, Batch(prompts, **common), gamma=3)
    return [each.tokens.tolist() for each in found]


@pytest.mark.parametrize("draft", ["draft", "eagle"])
def test_graphs_are_few_and_made_once(draft: str, graphed: dict[str, Any]) -> None:
    """Twenty utterances after the first of each shape compile nothing more; a break would raise."""
    before, rule = compiling.graphs, graphed["graphs"].of_rule(PCG(table(97, "windows")))
    for seed in range(3):
        said(graphed["target"], graphed[draft], rule, 1, 12, seed)
    made = compiling.graphs - before
    # target of gamma + 1, rule; a whole block of the draft, which begins with two tokens, or of an EAGLE head with as
    # many as were kept
    assert made <= 2 + (1 if draft == "draft" else 4)
    for seed in range(3, 23):
        said(graphed["target"], graphed[draft], rule, 1, 12, seed)
    assert compiling.graphs - before == made


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("draft", ["draft", "eagle", "layers", None])
def test_the_tokens_are_the_same(draft: str | None, batch: int, plain: dict[str, Any], graphed: dict[str, Any]) -> None:
    rule = PCG(table(97, "windows"))
    ours = said(graphed["target"], draft and graphed[draft], graphed["graphs"].of_rule(rule), batch)
    assert ours == said(plain["target"], draft and plain[draft], rule, batch)


@pytest.mark.parametrize("name", RULES)
def test_every_rule_gives_the_same_verdicts(name: str, graphed: dict[str, Any]) -> None:
    """Of five rows, padded to eight in a graph."""
    rule, generator = RULES[name](97), torch.Generator().manual_seed(3)
    draft, target = (torch.randn(5, n, 97, generator=generator).softmax(-1) for n in (3, 4))
    tokens, keys = draw(draft, torch.rand(5, 3, generator=generator)), torch.arange(5)
    randomness = Randomness(1, keys)
    given = (tokens, draft, target, 7 * keys, randomness)
    ours, theirs = graphed["graphs"].of_rule(rule).verify(*given), rule.verify(*given)
    assert ours.accepted.tolist() == theirs.accepted.tolist()
    assert ours.token.tolist() == theirs.token.tolist()


def test_only_what_is_new_is_no_fixed_input(graphed: dict[str, Any], noted: Noting) -> None:
    """Of weights, tables and caches a replayed graph makes no copy; none is complex, which inductor does not fuse."""
    said(graphed["target"], graphed["eagle"], graphed["graphs"].of_rule(PCG(table(97, "windows"))), 8)
    # tokens, lengths, keys, a draft's own state; probabilities of 8 rows, padded
    assert 0 < max(noted.moving) <= 8 * 4 * 97, sorted(noted.moving)
    assert torch.float32 in noted.dtypes
    assert not any(dtype.is_complex for dtype in noted.dtypes)


def test_what_does_not_compile_is_told_and_goes_on_or_raises(caplog: pytest.LogCaptureFixture) -> None:
    def stubborn(x: torch.Tensor) -> int:
        return int(x.sum()) if x.sum() > 0 else 0

    lenient = Graphs(CPU, backend="eager", strict=False).compiled(stubborn)
    assert [lenient(torch.ones(3)) for _ in range(2)] == [3, 3]
    assert caplog.text.count("stubborn is not compiled and runs as it is") == 1
    with pytest.raises(torch._dynamo.exc.TorchDynamoException):
        Graphs(CPU, backend="eager").compiled(stubborn)(torch.ones(3))


def test_kernels_are_kept_where_the_run_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", default_cache_dir())  # as torch does when it is imported
    for folder in ("ours", "others"):
        Graphs(CPU, folder=tmp_path / folder)
        assert cache_dir() == str(tmp_path / "ours")  # that of the first, and so what a user says


def test_compiling_is_no_part_of_decoding(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 10.0, 11.0])
    clock = Clock(CPU, now=lambda: next(now))
    clock.enter("target")
    monkeypatch.setattr(compiling, "seconds", compiling.seconds + 9.0)
    clock.enter("rule")
    clock.pause()
    assert clock.seconds["target"] == pytest.approx(1.0)
    assert clock.seconds["rule"] == pytest.approx(1.0)


def test_buffers_are_used_again_but_never_by_two(graphed: dict[str, Any]) -> None:
    target, prompts = graphed["target"], [torch.arange(9)]
    first, second = target.prefill(prompts, 40), target.prefill(prompts, 40)
    assert first.buffers.layers[0].data_ptr() != second.buffers.layers[0].data_ptr()
    used = first.buffers.layers[0].data_ptr()
    del first
    assert target.prefill(prompts, 60).buffers.layers[0].data_ptr() == used  # of the same bucket
    with pytest.raises(ValueError, match="is full"):
        target.step(torch.zeros(1, 300, dtype=torch.int64), second)


def test_what_has_no_graph_is_named(plain: dict[str, Any], graphed: dict[str, Any]) -> None:
    graphs = graphed["graphs"]
    with pytest.raises(ValueError, match="a NGram has no passes of fixed shape"):
        graphs.of_model(NGram(97))
    with pytest.raises(ValueError, match="DropMatch cannot be compiled as one graph"):
        graphs.of_rule(DropMatch())
    packed = LlamaLM("bundled:target", Phonemes("bundled:target"), "float32", "cpu", "speech")
    with pytest.raises(ValueError, match=r"in the (native|packed) layout are multiplied outside torch"):
        graphs.of_model(packed)


def test_a_run_says_what_cannot_be_compiled(plain: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
    cpu = torch.device("cpu")
    run = SimpleNamespace(target={"_target_": "a"}, draft={"_target_": "b"}, device=cpu, compile=True)

    def compiled(rule: Any) -> Any:
        return _compiled(run, Composition(plain["target"], plain["draft"], rule, None, [], {}, cpu))

    with pytest.raises(ConfigError, match=r"compile=true: DropMatch cannot be compiled as one graph; auto"):
        compiled(DropMatch())
    run.compile = "auto"
    with caplog.at_level("INFO"):
        found = compiled(DropMatch())
    assert (found.target, found.draft) == (plain["target"], plain["draft"])
    assert "compile=auto: nothing is compiled" in caplog.text
    found = compiled(Exact())
    assert (found.target.model, found.draft.model, found.rule.rule) == (plain["target"], plain["draft"], Exact())
    assert compiled(Exact()).target is found.target
