"""What an engine is told of the rule: what is right is built, what is wrong is named; tables over a model's tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from pcg.acceptance.pcg import PCG
from pcg.acceptance.ssd import SSD
from pcg.command import folders
from pcg.config.validate import ConfigError
from pcg.engines.settings import described, node_of, rule_of, rules
from pcg.engines.tables import audio_ids, of_file
from pcg.groups.cosine import Cosine
from pcg.groups.table import GroupTable
from pcg.models.phonemes import Phonemes
from pcg.models.unloaded import UnloadedModel
from tests.fakes import make_bundled_folder

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_bundled_folder(tmp_path_factory.mktemp("model"), audio_tokens=96))


def rows(model: str) -> int:
    return UnloadedModel(model, audio_ids(model)).rows


def test_rules_have_the_names_of_their_choices() -> None:
    choices = {path.stem for path in (folders.CONF / "grouping").glob("*.yaml")}
    assert choices - set(rules()) == {"dropmatch"}  # it asks the target's states, which engines do not give
    assert set(rules()) <= choices


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, ["pcg must be an object"]),
        ({"rule": "pgc"}, ["pcg.rule='pgc' does not exist; did you mean 'pcg'?"]),
        ({"rule": "dropmatch"}, ["pcg.rule='dropmatch' does not exist"]),
        ({"rule": "pcg"}, ["pcg.groups=None must be a file written by `pcg groups`"]),
        ({"rule": "pcg", "groups": "a", "flor": 1}, ["pcg.flor: unknown key; did you mean 'floor'?"]),
        ({"rule": "pcg", "groups": {"thta": 1}}, ["pcg.groups.thta: unknown key", "pcg.groups.theta is required"]),
        ({"rule": "ssd", "beta": "high"}, ["pcg.beta='high': expected a number"]),
        ({"rule": "exact", "groups": "a"}, ["pcg.groups: unknown key"]),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], named: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        node_of(settings)
    assert len(caught.value.problems) == len(named)
    for problem, start in zip(caught.value.problems, named, strict=True):
        assert problem.startswith(start)


def test_a_rule_without_groups(model: str) -> None:
    rule = rule_of({"rule": "ssd", "beta": 0.2}, model, rows(model), CPU)
    assert rule == SSD(0.2)
    assert described(rule) == "ssd beta=0.2"


def test_groups_built_when_the_engine_starts(model: str) -> None:
    """Over all tokens of the model: speech by the input table, text and markers alone."""
    rule = rule_of({"rule": "pcg", "groups": {"theta": 0.1}, "floor": 0.01}, model, rows(model), CPU)
    assert isinstance(rule, PCG)
    assert rule.floor == 0.01
    ids = Phonemes(model).speech_ids
    own = UnloadedModel(model, ids).embeddings("input")
    groupable = torch.arange(97) < 96
    assert rule.groups == Cosine(0.1).build(own, groupable).in_vocabulary(ids, rows(model))
    text = torch.ones(rows(model), dtype=torch.bool).index_fill_(0, ids[:-1], False)
    assert (rule.groups.counts[text] == 1).all()
    assert described(rule).startswith("pcg residual=target floor=0.01; 96 groups of ")


def test_groups_from_a_file_of_another_model_are_refused(model: str, tmp_path: Path) -> None:
    GroupTable.from_members([[0, 1]], 7).save(tmp_path / "groups.safetensors")
    assert len(of_file(str(tmp_path / "groups.safetensors"), 7)) == 6
    with pytest.raises(ValueError, match=r"groups over 7 tokens, but the model has .*`pcg groups target="):
        rule_of({"rule": "pcg", "groups": str(tmp_path / "groups.safetensors")}, model, rows(model), CPU)


def test_a_model_without_speech_tokens_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ValueError, match="the tokenizer lacks numbered speech tokens; `pcg inspect"):
        audio_ids(str(tmp_path))
