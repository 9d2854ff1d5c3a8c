from __future__ import annotations

import csv
import json
from typing import Any

import pytest
import soundfile
import torch

from pcg.command import cli
from pcg.config.validate import ConfigError
from pcg.groups.table import GroupTable
from pcg.sampling import Randomness
from pcg.studies import plots, substitute
from tests.studies.test_offline import CONTROL, CPU, PCG, RULES
from tests.tiny.parts import Sentences, Tones

TABLE = GroupTable.from_members([[0, 1, 2], [3, 4], [5]], 7)  # 6 stays alone too


def randomness(key: int = 1, seed: int = 0) -> Randomness:
    return Randomness(seed, torch.tensor([key]))


def test_only_tokens_with_company_are_swapped_and_stay_in_their_group() -> None:
    tokens = torch.tensor([0, 1, 2, 3, 4, 5, 6] * 30)
    found = substitute.swap(tokens, TABLE, 1.0, randomness())
    assert found.company.sum() == found.drawn.sum() == 5 * 30
    assert torch.equal(found.company, tokens < 5)
    group_of = torch.tensor([0, 0, 0, 1, 1, 2, 3])
    assert torch.equal(group_of[found.tokens], group_of[tokens])


def test_the_draw_is_uniform_over_the_group() -> None:
    found = substitute.swap(torch.zeros(6000, dtype=torch.int64), TABLE, 1.0, randomness())
    shares = torch.bincount(found.tokens, minlength=3) / 6000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3), atol=0.02, rtol=0)


def test_a_seeded_table_uses_the_token_s_own_group() -> None:
    # overlapping: group k is token k's own; 0 sees 1, 1 sees both, 2 sees 1
    table = GroupTable.from_members([[0, 1], [0, 1, 2], [1, 2], [3]], 4)
    found = substitute.swap(torch.zeros(500, dtype=torch.int64), table, 1.0, randomness())
    assert set(found.tokens.tolist()) == {0, 1}


def test_a_given_share_is_a_part_of_the_whole_swap() -> None:
    tokens = torch.arange(5).repeat(400)
    whole, half = (substitute.swap(tokens, TABLE, share, randomness()) for share in (1.0, 0.5))
    assert half.drawn.float().mean() == pytest.approx(0.5, abs=0.03)
    assert torch.equal(half.tokens, torch.where(half.drawn, whole.tokens, tokens))


def test_the_same_seed_and_utterance_give_the_same_swap() -> None:
    tokens = torch.arange(5).repeat(20)
    first = substitute.swap(tokens, TABLE, 1.0, randomness()).tokens
    assert torch.equal(first, substitute.swap(tokens, TABLE, 1.0, randomness()).tokens)
    assert not torch.equal(first, substitute.swap(tokens, TABLE, 1.0, randomness(key=2)).tokens)
    assert not torch.equal(first, substitute.swap(tokens, TABLE, 1.0, randomness(seed=1)).tokens)


@pytest.fixture(autouse=True)
def _no_plots(request, monkeypatch) -> None:
    if "plots" not in request.node.name:
        monkeypatch.setattr(plots, "draw_substitution", lambda conditions, folder: [])


@pytest.fixture
def asked(config):
    """``conf/substitute.yaml`` over the tiny parts, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        grids = {"pcg": {"groups": {"theta": [-1.0, 0.5]}}, "pcg_random": {"groups": {"like": {"theta": [0.5]}}}}
        own = {"rules": {"pcg": PCG, "pcg_random": CONTROL}, "grids": grids, "only": None, "share": 1.0}
        study = {key: changes.pop(key, value) for key, value in own.items()}
        run = config(**changes)
        return {key: run[key] for key in run if key not in ("grouping", "logger", "max_failures")} | study

    return make


def test_shares_counted_by_hand(asked) -> None:
    folder = substitute.study(asked())
    found = {row["name"]: row for row in json.loads((folder / substitute.NAME).read_text())["conditions"]}
    assert list(found) == ["recording", "resynthesis", "pcg theta=-1.0", "pcg theta=0.5", "pcg_random theta=0.5"]
    assert found["resynthesis"]["swapped_share"] == 0
    assert found["pcg theta=-1.0"]["company_share"] == found["pcg theta=-1.0"]["drawn_share"] == 1
    assert found["pcg theta=0.5"]["groups"]["mean_size"] == found["pcg_random theta=0.5"]["groups"]["mean_size"]
    assert found["pcg theta=0.5"]["mos_change"] == 0  # as long as before
    rows = list(csv.DictReader((folder / "utterances.csv").read_text().splitlines()))
    swapped = 0
    for utterance in Sentences(6):
        tokens = Tones(CPU).encode([utterance.load_reference()])[0]
        row = next(r for r in rows if r["condition"] == "pcg theta=-1.0" and r["utterance"] == utterance.id)
        samples, rate = soundfile.read(folder / row["audio"], dtype="float32")
        heard = (torch.from_numpy(samples[::8]) * 12).round().long()
        assert rate == 16_000
        assert int((heard != tokens).sum()) == int(row["swapped"])
        assert int(row["tokens"]) == int(row["drawn"]) == len(tokens)
        swapped += int(row["swapped"])
    assert found["pcg theta=-1.0"]["swapped_share"] == swapped / sum(5 + index for index in range(6))


def test_table_and_plots(asked, capsys) -> None:
    folder = substitute.study(asked(**{"dataset.limit": 2}))
    assert "pcg_random theta=0.5" in (folder / "table.md").read_text()
    assert (folder / "change_theta.png").read_bytes()[:4] == b"\x89PNG"
    assert "<svg" in (folder / "change_theta.svg").read_text()
    assert "change_theta.png" in capsys.readouterr().out


def test_the_study_is_deterministic(asked) -> None:
    first = (substitute.study(asked()) / "utterances.csv").read_text()
    assert (substitute.study(asked()) / "utterances.csv").read_text() == first
    assert (substitute.study(asked(seed=1)) / "utterances.csv").read_text() != first


def test_mistakes_are_named(asked) -> None:
    with pytest.raises(ConfigError, match=r"(?s)share=1\.5.*rules\.exact: has no groups"):
        substitute.check(asked(share=1.5, rules={"exact": RULES["exact"]}, grids={}))


def test_the_command_line_is_checked() -> None:
    cli.check_command_line("substitute", ["thetas=[0.3]", "share=0.914"], substitute.check)
    with pytest.raises(ConfigError, match=r"only\.knn: no such rule"):
        cli.check_command_line("substitute", ["only=[knn]"], substitute.check)
