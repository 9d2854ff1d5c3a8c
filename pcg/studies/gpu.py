"""How fast the decoding loop is on a device, with models of LLaSA's shapes and random weights, so nothing is fetched.

Random models agree by chance only, so no acceptance is given: what counts is how long passes, rules and rounds take,
and how far they are from what memory bandwidth allows.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from jaxtyping import Int
from safetensors.torch import save_file
from torch import Tensor

from pcg import constraints
from pcg.config.build import TARGET, build
from pcg.config.validate import refuse
from pcg.config.values import study_folder
from pcg.constraints import Constraint, Device, up_to
from pcg.decoding.clock import compiling
from pcg.decoding.rows import Prompt
from pcg.groups.table import GroupTable
from pcg.models.footprint import PUBLISHED, footprint
from pcg.report.tables import console, markdown, rich_table
from pcg.results import environment
from pcg.results.records import write_atomically, write_json
from pcg.results.timing import pass_seconds
from pcg.sampling import Sampling
from pcg.studies.timing import Method, against, in_turns, own_method, total
from pcg.types import Utterance

_TINY = {
    "model_type": "llama", "vocab_size": 300, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4,
    "tie_word_embeddings": True,
}  # fmt: skip


@dataclass(frozen=True)
class Shape:
    """Target and draft as config.json gives them, audio tokens, tokens a group, and states that the head reads."""

    target: dict[str, Any]
    draft: dict[str, Any]
    codes: int
    group: int
    reads: tuple[int, ...]


SHAPES = {
    "llasa": Shape(PUBLISHED["HKUSTAudio/Llasa-8B"], PUBLISHED["HKUSTAudio/Llasa-1B"], 65_536, 141, (2, 16, 29)),
    "tiny": Shape(_TINY | {"num_hidden_layers": 3}, _TINY | {"num_hidden_layers": 1}, 256, 9, (1, 2, 3)),
}
_KEYS = {
    "shape": Literal["llasa", "tiny"],
    "dtype": Literal["bfloat16", "float16", "float32"],
    "device": Device,
    "gamma": Annotated[int, up_to(64)],
    "tokens": Annotated[int, up_to(10_000)],
    "prompt_tokens": Annotated[int, up_to(10_000)],
    "repeats": Annotated[int, up_to(1_000)],
    "threads": Annotated[int, up_to(10_000)],
    "batches": Annotated[
        list[int], Constraint(lambda sizes: sizes and all(1 <= n <= 64 for n in sizes), "some of 1 to 64")
    ],
}
_HEADER = ("batch", "contestant", "tokens/s", "speed-up", "of ideal", "target pass, ms", "of copy bandwidth",
           "draft pass, ms", "rule, ms", "rest, ms")  # fmt: skip
_BYTES = {"cuda": 2**30, "cpu": 2**26}  # copied to measure the memory


def check(config: Mapping[str, Any]) -> None:
    """Raise a ConfigError that lists everything that is wrong with conf/gpu.yaml, also a device that is not here."""
    problems = constraints.problems(config, _KEYS)
    if str(config["device"]).startswith("cuda") and not torch.cuda.is_available():
        problems.append(f"device={config['device']}: no GPU that torch can use is here; device=cpu shape=tiny tries it")
    refuse(problems)


class _Rows:
    """A text side without text: speech tokens are the last rows of the table, prompts have the length of the config."""

    def __init__(self, vocab: int, codes: int, length: int) -> None:
        self.speech_ids, self._length = torch.arange(vocab - codes - 1, vocab), length

    def prompt(self, utterance: Utterance, prompt_tokens: Int[Tensor, "length"] | None) -> Int[Tensor, "prompt"]:
        return torch.arange(self._length) % 100


def write_random(folder: Path, config: Mapping[str, Any], seed: int, head: tuple[int, ...] = ()) -> Path:
    """Write a model folder of random bfloat16 weights.

    Args:
        head: hidden states that it reads, for an EAGLE head; empty for a Llama.
    """
    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    width, hidden = config["hidden_size"], config["intermediate_size"]
    size = width // config["num_attention_heads"]
    keys = config["num_key_value_heads"] * size

    def drawn(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.bfloat16).normal_(0, 0.02, generator=generator)

    norms: dict[str, Tensor] = {"norm.weight" if head else "model.norm.weight": torch.ones(width, dtype=torch.bfloat16)}
    tensors = norms | ({"fc.weight": drawn(width, len(head) * width)} if head else {})
    if not head:
        tensors["model.embed_tokens.weight"] = drawn(config["vocab_size"], width)
        if not config["tie_word_embeddings"]:
            tensors["lm_head.weight"] = drawn(config["vocab_size"], width)
    inputs = 2 * width if head else width
    names = ["midlayer."] if head else [f"model.layers.{i}." for i in range(config["num_hidden_layers"])]
    for name in names:
        for part in ("input_layernorm", "post_attention_layernorm", *(["hidden_norm"] if head else [])):
            tensors[f"{name}{part}.weight"] = torch.ones(width, dtype=torch.bfloat16)
        for part, rows in (("q", width), ("k", keys), ("v", keys)):
            tensors[f"{name}self_attn.{part}_proj.weight"] = drawn(rows, inputs)
        tensors[f"{name}self_attn.o_proj.weight"] = drawn(width, width)
        for part in ("gate", "up"):
            tensors[f"{name}mlp.{part}_proj.weight"] = drawn(hidden, width)
        tensors[f"{name}mlp.down_proj.weight"] = drawn(width, hidden)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    written = dict(config) | {"architectures": ["LlamaForCausalLM"]}
    written |= {"num_hidden_layers": 1, "reads": list(head)} if head else {}
    (folder / "config.json").write_text(json.dumps(written))
    return folder


def groups_of(codes: int, size: int) -> GroupTable:
    """Each audio token with its neighbours in a ring, ``size`` in all; end-of-speech alone."""
    offsets = torch.arange(size) - size // 2
    ring = ((torch.arange(codes).unsqueeze(1) + offsets) % codes).sort(1).values
    sizes = torch.cat([torch.full((codes,), size), torch.ones(1, dtype=torch.int64)])
    return GroupTable.from_csr(sizes, torch.cat([ring.flatten(), torch.tensor([codes])]), codes + 1, size % 2 == 1)


@contextmanager
def methods(config: Mapping[str, Any]) -> Iterator[tuple[dict[str, Method], int]]:
    """The methods to time, by name, and the bytes that a pass of the target reads. Weights are on disk meanwhile."""
    shape, device = SHAPES[config["shape"]], torch.device(config["device"])
    with tempfile.TemporaryDirectory(prefix="pcg-gpu-") as place:
        made: dict[str, Any] = {}
        for name, values in (("target", shape.target), ("draft", shape.draft)):
            folder = write_random(Path(place) / name, values, seed=len(made))
            text = _Rows(values["vocab_size"], shape.codes, config["prompt_tokens"])
            node = {TARGET: "pcg.models.llama.LlamaLM", "path": str(folder), "head": "speech", "dtype": config["dtype"]}
            made[name] = build(node, text=text, device=device)
        head = write_random(Path(place) / "eagle", shape.target, 2, shape.reads)
        node = {TARGET: "pcg.models.eagle.EagleLM", "path": str(head), "dtype": config["dtype"]}
        models: dict[str, Any] = made | {"eagle": build(node, target=made["target"], device=device)}
        read = footprint(str(Path(place) / "target"), config["dtype"], "speech", shape.codes + 1).read
        table = groups_of(shape.codes, shape.group).to(device)
        rules = {name: build({TARGET: f"pcg.acceptance.{name}.{kind}"}, groups=table)
                 for name, kind in (("exact", "Exact"), ("pcg", "PCG"), ("coupling", "Coupling"))}  # fmt: skip
        if config["compile"]:
            from pcg.decoding.graphs import Graphs  # torch's compiler takes seconds to import

            graphs = Graphs(device, strict=False)
            models = {name: graphs.of_model(model) for name, model in models.items()}
            rules = {name: graphs.of_rule(rule) for name, rule in rules.items()}

        def pair(draft: str = "", rule: str = "") -> Method:
            return own_method(
                models["target"], models.get(draft), rules.get(rule), gamma=config["gamma"],
                sampling=Sampling(0.8), max_tokens=config["tokens"], device=device, now=time.perf_counter,
            )  # fmt: skip

        drafted = {("" if draft == "draft" else f"{draft}, ") + rule: pair(draft, rule)
                   for draft in ("draft", "eagle") for rule in rules}  # fmt: skip
        yield {"target alone": pair(), **drafted}, read


def _prompts(batch: int) -> list[Prompt]:
    return [Prompt(Utterance(str(row), "")) for row in range(batch)]


def copy_bandwidth(device: torch.device) -> float:
    """Bytes a second that a copy within the device's memory reads and writes; the best of ten."""
    source = torch.ones(_BYTES[device.type], dtype=torch.uint8, device=device)
    target, best = torch.empty_like(source), 0.0
    for _ in range(10):
        _synchronize(device)
        began = time.perf_counter()
        target.copy_(source)
        _synchronize(device)
        best = max(best, 2 * len(source) / (time.perf_counter() - began))
    return best


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measure(config: Mapping[str, Any]) -> Path:
    """Time every contestant at every batch size, write gpu.json and gpu.md, show the table; returns the JSON file."""
    check(config)
    torch.set_num_threads(config["threads"])
    device = torch.device(config["device"])
    environment.start_memory(device)
    bandwidth, rows = copy_bandwidth(device), []
    with methods(config) as (timed, read):
        for batch in config["batches"]:
            rows += _at(batch, timed, config, read / bandwidth)
    values = {
        "schema": 1,
        "config": dict(config),
        **environment.about(device),
        "copy_bytes_per_second": bandwidth,
        "target_bytes": read,
        "peak_memory_bytes": environment.peak_memory_bytes(device),
        "compile_seconds": compiling.seconds,
        "graphs": compiling.graphs,
        "rows": rows,
    }
    folder = study_folder(config["paths"]["outputs"], config["study"])
    write_json(folder / "gpu.json", values)
    cells = [_cells(row) for row in rows]
    about = (
        f"{values['device']}, {config['shape']} shapes, random weights, {config['dtype']}, gamma {config['gamma']}, "
        f"copy {bandwidth / 1e9:.0f} GB/s, peak {environment.peak_memory_bytes(device) / 2**30:.1f} GiB, "
        f"{values['graphs']} graphs in {compiling.seconds:.0f} s"
    )
    write_atomically(folder / "gpu.md", f"{about}\n\n{markdown(_HEADER, cells)}\n")
    console(160).print(rich_table(about, _HEADER, cells))
    console(160).print(f"-> {folder / 'gpu.json'}")
    return folder / "gpu.json"


def _at(batch: int, timed: Mapping[str, Method], config: Mapping[str, Any], least: float) -> list[dict[str, Any]]:
    """Figures of each method, decoded in turns after one turn to warm up and compile.

    Args:
        least: seconds that a copy takes to read what a pass of the target reads.
    """
    times = in_turns(timed, [_prompts(batch)], config["repeats"], seed=0)
    rows: list[dict[str, Any]] = []
    for name in timed:
        summed = total(times[name])
        one = pass_seconds(summed.seconds, summed.passes, "target")
        row: dict[str, Any] = {"batch": batch, "contestant": name, "tokens_per_second": summed.tokens / summed.decoding,
                               "target_pass": one, "of_bandwidth": one and least / one}  # fmt: skip
        if name != "target alone":
            compared = against(times[name], times["target alone"])
            of_round = compared["seconds_of_round"]
            row |= {
                "draft_pass": pass_seconds(summed.seconds, summed.passes, "draft"),
                "rule": of_round["rule"],
                "rest": of_round["other"],
                "speedup": compared["speedup"],
                "of_ideal": compared["of_ideal"],
            }
        rows.append(row)
    return rows


def _cells(row: Mapping[str, Any]) -> list[str]:
    forms = {"tokens_per_second": "{:.0f}", "speedup": "{:.2f}", "of_ideal": "{:.2f}", "target_pass": "ms",
             "of_bandwidth": "{:.2f}", "draft_pass": "ms", "rule": "ms", "rest": "ms"}  # fmt: skip
    shown = [
        "" if key not in row else f"{1000 * row[key]:.3f}" if form == "ms" else form.format(row[key])
        for key, form in forms.items()
    ]
    return [str(row["batch"]), row["contestant"], *shown]
