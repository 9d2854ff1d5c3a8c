"""pcg groups: the file that an engine reads, over a model's own tokens, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir

from pcg.command import cli
from pcg.config.validate import ConfigError
from pcg.engines.tables import of_file
from pcg.models.llama import LlamaLM
from pcg.models.phonemes import Phonemes
from pcg.runner.groups import group_table
from pcg.studies import groups
from tests.fakes import make_bundled_folder


def config(*overrides: str) -> dict[str, object]:
    with initialize_config_dir(cli.CONF, version_base="1.3"):
        return cli.plain(compose("groups", list(overrides)))


@pytest.mark.parametrize("source", ["cosine", "cosine_head"])
def test_the_groups_of_a_run_over_the_models_tokens(
    source: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = str(make_bundled_folder(tmp_path / "model", tied=False))
    out = tmp_path / "made" / "groups.safetensors"
    asked = config(
        f"target.path={folder}", f"grouping/groups={source}", "grouping.theta=0.1", f"out={out}", "device=cpu"
    )
    assert groups.write(asked) == out
    model = LlamaLM(folder, Phonemes(folder), "float32", "cpu", "speech")
    rows = model.llama.config.vocab
    node = asked["grouping"]["groups"]  # type: ignore[index]
    table = group_table(node, model, None, None, None, {})
    assert of_file(str(out), rows) == table.in_vocabulary(model.text.speech_ids, rows)
    assert capsys.readouterr().out.startswith(f"{out}: 96 groups of ")
    assert [path.name for path in out.parent.iterdir()] == ["groups.safetensors"]
    assert (of_file(str(out), rows).counts[torch.arange(5)] == 1).all()  # markers


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["grouping=exact"], "grouping: this rule has no groups"),
        (["out=groups.bin"], "a file name that ends in .safetensors"),
        (["device=gpu"], "device='gpu': auto, cpu, cuda or cuda:N"),
        (["grouping.theta=1.5"], "theta=1.5"),
    ],
)
def test_what_is_wrong_is_named(overrides: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        groups.check(config(*overrides))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["grouping/groups=cosine_draft"], r"source=draft_input: there is no draft \(draft=none\)"),
        (["grouping/groups=sound"], r"there is none \(codec=none\)"),
    ],
)
def test_vectors_that_are_not_there(overrides: list[str], told: str, tmp_path: Path) -> None:
    folder = make_bundled_folder(tmp_path / "model")
    with pytest.raises(ConfigError, match=told):
        groups.write(config(f"target.path={folder}", f"out={tmp_path}/groups.safetensors", "device=cpu", *overrides))
