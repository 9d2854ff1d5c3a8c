"""Every YAML under conf/, found recursively: composed, validated, and built as far as its files are there."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from pcg.codecs.bundled import BundledCodec
from pcg.command import cli
from pcg.config import identity
from pcg.config.build import build, is_built
from pcg.config.settings import SOURCES
from pcg.config.validate import check, problems_of_node
from pcg.engines.vllm.engine import Vllm
from pcg.groups.knn import KNN
from pcg.interfaces import StateRule
from pcg.sampling import Sampling
from pcg.studies import substitute

CONF = Path(cli.CONF)
# Choices that leave a key to the user, and a value that will do.
NEEDS = {
    ("dataset", "texts"): {"path": "README.md"},
    ("dataset", "libritts_local"): {"path": "tests"},
    ("dataset", "seedtts"): {"path": "README.md"},
    ("dataset", "text_folder"): {"path": "tests"},
    ("dataset", "tokens"): {"path": "README.md"},
    ("trainer", "recorded"): {"dataset.path": "README.md"},
    ("target", "hf"): {"path": "some/folder"},
    ("draft", "hf"): {"path": "some/folder"},
    ("target", "chatterbox_turbo"): {"voice": "some/voice.safetensors"},
    ("target", "transformers"): {"path": "some/folder"},
    ("target", "spark"): {"path": "some/folder"},
    ("draft", "transformers"): {"path": "some/folder"},
}
TEXTS = [path.stem for path in sorted((CONF / "text").glob("*.yaml"))]
ROOTS = {path.stem for path in CONF.glob("*.yaml")}


def choices() -> list[tuple[str, str]]:
    """(group, choice) of every YAML that is not an entry point's."""
    found = [path.relative_to(CONF).with_suffix("") for path in sorted(CONF.rglob("*.yaml"))]
    return [(str(path.parent), path.name) for path in found if len(path.parts) > 1]


@pytest.fixture(autouse=True)
def _conf() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def _composed(group: str, choice: str) -> dict[str, Any]:
    extra = [f"{group}.{key}={value}" for key, value in NEEDS.get((group, choice), {}).items()]
    if group == "grouping/groups":
        return cli.plain(compose("run", ["grouping=pcg", f"grouping/groups={choice}"]))
    return cli.plain(compose("run", [f"{'+' if group not in OFFERED else ''}{group}={choice}", *extra]))


def composed(group: str, choice: str) -> dict[str, Any]:
    return copy.deepcopy(_composed(group, choice))


OFFERED = {"paths", "target", "draft", "codec", "dataset", "grouping", "decoding", "engine",
           "metrics", "logger", "experiment", "hydra/job_logging", "hydra/hydra_logging"}  # fmt: skip
LAID_OVER = {
    "hydra/launcher_settings",
    "hydra/sweeper_settings",
    "wandb_sweeps",
}  # over the plugins' own, where they are installed


def test_no_group_is_left_out() -> None:
    assert {group for group, _ in choices()} <= {
        *OFFERED,
        *LAID_OVER,
        "grouping/groups",
        "trainer",
        "trainer/loss",
        "trainer/prompts",
        "text",
        "theta",
    }


def test_a_target_brings_the_theta_that_suits_it() -> None:
    """The rules' own is the paper's, for 65,536 tokens; a theta of the command line goes first."""
    thetas = [compose("run", overrides).grouping.theta for overrides in (
        ["grouping=coupling"], ["grouping=pcg"], ["target=llasa_8b"], ["grouping=pcg", "grouping.theta=0.6"]
    )]  # fmt: skip
    assert thetas == [0.7, 0.7, 0.45, 0.6]


@pytest.mark.parametrize("root", ["bench", "groups", "run", "speak"])
def test_every_command_with_a_rule_takes_the_best_draft_and_the_theta_that_suits_the_target(root: str) -> None:
    config = compose(root, ["grouping=pcg"])
    assert config.grouping.theta == 0.7
    assert root == "groups" or config.draft.path == "bundled:eagle"


@pytest.mark.parametrize("root", sorted(ROOTS))
def test_every_entry_point_composes(root: str) -> None:
    config = compose(root, ["trainer=codec"] if root == "train" else [])
    assert OmegaConf.to_container(config, resolve=True)


@pytest.mark.parametrize("stage", ["draft", "eagle"])
@pytest.mark.parametrize("choice", [choice for group, choice in choices() if group == "trainer/loss"])
def test_every_loss_is_valid_for_every_draft(stage: str, choice: str) -> None:
    config = cli.plain(compose("train", [f"trainer={stage}", f"trainer/loss={choice}"]))
    assert problems_of_node(config["trainer"], "trainer") == []


@pytest.mark.parametrize(
    "overrides",
    [["trainer=samples", f"trainer/prompts={choice}"] for group, choice in choices() if group == "trainer/prompts"]
    + [["trainer=eagle", f"text@trainer.text={choice}"] for choice in TEXTS],
)
def test_every_source_of_a_stage_is_valid(overrides: list[str]) -> None:
    config = cli.plain(compose("train", overrides))
    assert problems_of_node(config["trainer"], "trainer") == []


@pytest.mark.parametrize("choice", TEXTS)
def test_every_text_side_is_valid_for_any_model(choice: str) -> None:
    """A family is prompted in one way: as target, as draft and where a draft is trained for it."""
    sides = [f"text@{role}.text={choice}" for role in ("target", "draft")]
    paths = ["target.path=some/folder", "draft.path=some/folder"]
    config = cli.plain(compose("run", ["target=hf", "draft=hf", *sides, *paths]))
    check(config)
    trained = cli.plain(
        compose("train", ["trainer=eagle", f"text@trainer.text={choice}", "trainer.target=some/folder"])
    )
    assert config["target"]["text"] == config["draft"]["text"] == trained["trainer"]["text"]
    assert config["target"]["text"]["path"] == "some/folder"


@pytest.mark.parametrize("choice", [choice for group, choice in choices() if group == "trainer"])
def test_every_trainer_is_valid(choice: str) -> None:
    needed = [f"trainer.{key}={value}" for key, value in NEEDS.get(("trainer", choice), {}).items()]
    config = cli.plain(compose("train", [f"trainer={choice}", *needed]))
    assert problems_of_node(config["trainer"], "trainer") == []


@pytest.mark.parametrize(
    ("group", "choice"),
    [pair for pair in choices() if pair[0] in {*OFFERED, "grouping/groups"} and pair != ("experiment", "substitution")],
)
def test_every_choice_of_a_run_is_valid(group: str, choice: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Vllm, "version", staticmethod(lambda: "vllm 0"))  # which is not here
    config = composed(group, choice)
    check(config)
    run = identity.canonical(config)
    assert len(identity.run_id(run)) == 10
    assert identity.label(run)


@pytest.mark.parametrize("choice", [choice for group, choice in choices() if group == "grouping"])
def test_every_rule_is_built(choice: str) -> None:
    node = identity.canonical(composed("grouping", choice))["grouping"]
    table = KNN(1).build(torch.eye(4), None)  # with an order of nearness, which lantern asks for
    rule = build({key: value for key, value in node.items() if key != "groups"}, groups=table)
    if isinstance(rule, StateRule):  # made over a batch; distributions alone do not tell what it expects to keep
        assert callable(rule.over(SimpleNamespace(head=torch.nn.Identity()), None, Sampling()).verify)
        return
    assert callable(rule.verify)
    assert callable(rule.expected_acceptance)


@pytest.mark.parametrize("choice", [choice for group, choice in choices() if group == "grouping/groups"])
def test_every_group_builder_is_built(choice: str) -> None:
    node = dict(composed("grouping/groups", choice)["grouping"]["groups"])
    assert node.pop("source") in SOURCES
    supplied = {"codec": BundledCodec("bundled:codec"), "codec_name": "bundled", "cache": None}
    assert callable(build(node, **supplied).build)


@pytest.mark.parametrize("choice", [choice for group, choice in choices() if group == "metrics"])
def test_every_metric_is_built(choice: str) -> None:
    config = composed("metrics", choice)
    for node in identity.canonical(config)["metrics"].values():
        assert build(node).figures


@pytest.mark.parametrize("group", ["dataset", "logger"])
def test_every_dataset_and_logger_is_built(group: str) -> None:
    for name in [choice for where, choice in choices() if where == group]:
        node: Any = composed(group, name)[group]
        if is_built(node):
            assert build(node) is not None


@pytest.mark.parametrize("choice", [choice for group, choice in choices() if group == "experiment"])
def test_every_point_of_every_study_is_valid(choice: str) -> None:
    GlobalHydra.instance().clear()  # it sets Hydra up by itself
    if choice == "substitution":
        cli.check_command_line("substitute", [f"experiment={choice}"], substitute.check)
    else:
        cli.check_command_line("run", ["-m", f"experiment={choice}"])


@pytest.mark.parametrize(
    ("choice", "runs"),
    [
        ("bundled_rules", 9), ("paper_table", 6), ("theta_sweep", 7), ("gamma_sweep", 15), ("grouping_ablation", 8),
        ("temperature", 10), ("batch_size", 8), ("draft_size", 10), ("frontier", 6), ("seedtts", 4), ("candidates", 8),
        ("neutts", 4),
    ],
)  # fmt: skip
def test_a_study_asks_for_so_many_runs(choice: str, runs: int) -> None:
    sweep = OmegaConf.load(CONF / "experiment" / f"{choice}.yaml").hydra.sweeper.params
    points = itertools.product(
        *([f"{key}={value}" for value in str(values).split(",")] for key, values in sweep.items())
    )
    found = [identity.canonical(cli.plain(compose("run", list(point)))) for point in points]
    assert len({identity.run_id(run) for run in found}) == runs
