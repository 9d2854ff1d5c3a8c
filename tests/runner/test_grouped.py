from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from pcg.config.run import parse
from pcg.config.validate import check
from pcg.groups.table import GroupTable
from pcg.results.store import read_utterances
from pcg.runner.composition import load
from pcg.runner.groups import mean_sizes, size_report
from pcg.runner.run import run_once

LATE = ("group_sizes", "target_probs", "draft_probs")


@dataclass
class Grouped:
    """Something of a rule that has groups."""

    groups: GroupTable


def test_sizes_by_hand() -> None:
    rule = Grouped(GroupTable.from_members([[0, 1, 2, 3], [3, 4], [4]], vocab_size=6))  # 5 is on its own
    assert mean_sizes(rule).tolist() == [4, 4, 4, 3, 1.5, 1]
    report = size_report(rule)
    assert report["histogram"] == {"edges": [1, 2, 4, 8], "counts": [2, 1, 1]}
    assert (report["groups"], report["mean_size"], report["max_size"]) == (4, 2.0, 4)


def test_a_rule_without_groups_has_no_sizes() -> None:
    assert mean_sizes(None) is None
    assert size_report(object()) is None


def test_a_run_keeps_sizes_and_probabilities_of_every_token(config) -> None:
    grouping = {
        "_target_": "pcg.acceptance.pcg.PCG",
        "groups": {"_target_": "pcg.groups.cosine.Cosine", "theta": 0.5, "center": False},
    }
    result = run_once(config(grouping=grouping))
    sizes = result.values["groups"]
    assert sum(sizes["histogram"]["counts"]) == sizes["groups"] == 13
    assert sizes["max_size"] > 1
    for row in read_utterances(Path(result.folder)):
        assert len(row["group_sizes"]) == len(row["target_probs"]) == len(row["draft_probs"]) == len(row["tokens"])
        assert all(1 <= size <= sizes["max_size"] for size in row["group_sizes"])
        assert all(0 <= prob <= 1 for prob in row["target_probs"])
        assert [prob is None for prob in row["draft_probs"]] == [kind == "bonus" for kind in row["kinds"]]


@pytest.mark.parametrize("like", [False, True], ids=["sound", "random"])
def test_a_builder_that_listens_is_given_the_runs_codec(config, like, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PCG_CACHE", str(tmp_path / "cache"))
    sound = {"_target_": "pcg.groups.sound.Sound", "k": 2, "contexts": 1, "embedding": False}
    sound["voices"] = {"_target_": "pcg.data.bundled.Bundled"}
    groups = {"_target_": "pcg.groups.random_like.RandomLike", "like": sound} if like else sound
    run = config(grouping={"_target_": "pcg.acceptance.pcg.PCG", "groups": groups})
    check(run)
    table = load(parse(run)).rule.groups
    assert table.sizes.tolist() == [3] * 12 + [1]
    assert len(list((tmp_path / "cache").iterdir())) == 2  # the table, and what was heard


@pytest.mark.parametrize("changes", [{}, {"draft": {"_target_": None}}], ids=["exact", "target alone"])
def test_without_groups_the_lists_are_empty(config, changes) -> None:
    result = run_once(config(**changes))
    assert result.values["groups"] is None
    for row in read_utterances(Path(result.folder)):
        assert row["group_sizes"] == []
        assert len(row["target_probs"]) == (0 if changes else len(row["tokens"]))


def test_a_run_that_an_earlier_version_began_is_finished(config) -> None:
    whole = run_once(config())
    folder = Path(whole.folder)
    first, *_ = (folder / "batches.jsonl").read_text().splitlines()
    began = json.loads(first)
    began["rows"] = [{key: value for key, value in row.items() if key not in LATE} for row in began["rows"]]
    (folder / "batches.jsonl").write_text(json.dumps(began) + "\n")
    (folder / "result.json").unlink()
    (folder / "utterances.parquet").unlink()
    assert run_once(config()).values["counts"] == whole.values["counts"]
    kept = [row["target_probs"] is not None for row in read_utterances(folder)]
    assert kept == [False, False, True, True, True, True]  # a batch is two utterances
