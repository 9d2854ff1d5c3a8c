from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
import torch

from pcg.acceptance.candidates import Candidates
from pcg.acceptance.exact import Exact
from pcg.command import cli
from pcg.config.validate import ConfigError
from pcg.results import predictions
from pcg.runner import movers
from pcg.runner.groups import embeddings_of
from pcg.sampling import RAS, Sampling
from pcg.studies import offline, plots
from pcg.studies.grid import rules_of, settings_and_points
from pcg.studies.renewal import rounds_along
from tests.fakes import law_after
from tests.tiny.parts import Bigram, Sentences, Tones

CPU = torch.device("cpu")
COSINE = {"_target_": "pcg.groups.cosine.Cosine", "theta": 0.4, "center": False, "source": "target_input"}
PCG = {"_target_": "pcg.acceptance.pcg.PCG", "groups": COSINE, "theta": 0.4}
CONTROL = {
    "_target_": "pcg.acceptance.pcg.PCG",
    "groups": {
        "_target_": "pcg.groups.random_like.RandomLike",
        "like": {key: COSINE[key] for key in ("_target_", "theta", "center")},
        "seed": 0,
        "source": "target_input",
    },
}
RULES: dict[str, Any] = {
    "exact": {"_target_": "pcg.acceptance.exact.Exact", "theta": 0.4},
    "ensemble": {"_target_": "pcg.acceptance.ensemble.Ensemble", "w": 0.5},
    "pcg": PCG,
    "pcg_random": CONTROL,
}
GRIDS: dict[str, Any] = {
    "ensemble": {"w": [0.0, 0.5, 1.0]},
    "pcg": {"groups": {"theta": [0.0, 0.6]}},
    "pcg_random": {"groups": {"like": {"theta": [0.0, 0.6]}}},
}


@pytest.fixture(autouse=True)
def _no_plots(request, monkeypatch) -> None:
    """They take longer than all else; one test draws them."""
    if "plots" not in request.node.name:
        monkeypatch.setattr(plots, "draw_offline", lambda points, folder: [])


@pytest.fixture
def asked(config):
    """``conf/offline.yaml`` over the tiny parts, with changes."""

    def make(**changes: Any) -> dict[str, Any]:
        own = {"rules": RULES, "grids": GRIDS, "only": None, "chunk": 256, "gammas": 4}
        study = {key: changes.pop(key, value) for key, value in own.items()}
        run = config(**changes)
        return {key: run[key] for key in run if key not in ("grouping", "metrics", "logger", "max_failures")} | study

    return make


def read(folder: Path) -> dict[str, dict[str, Any]]:
    return {point["name"]: point for point in json.loads((folder / predictions.NAME).read_text())["points"]}


def by_hand(count: int = 6, noise: float = 0.7) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Draft and target distributions along each recording: a bigram knows only the token before."""
    draft, target = Bigram(CPU, noise=noise), Bigram(CPU)
    pairs = []
    for utterance in Sentences(count):
        tokens = Tones(CPU).encode([utterance.load_prompt(), utterance.load_reference()])
        before = torch.cat([tokens[0][-1:], tokens[1]])
        pairs.append((draft._table[before].softmax(1), target._table[before].softmax(1)))
    return pairs


def test_rounds_by_hand() -> None:
    a, b = 0.3, 0.8
    alphas = torch.tensor([[a, b]])
    one = rounds_along(alphas, 1)  # a kept first token is followed by a bonus: done
    assert [one.rounds.item(), one.tested.item(), one.accepted.item()] == pytest.approx([2 - a, 2 - a, a + (1 - a) * b])
    two = rounds_along(alphas, 2)
    assert [two.rounds.item(), two.tested.item()] == pytest.approx([2 - a, 1 + a + (1 - a)])
    assert two.accepted.item() == pytest.approx(a + a * b + (1 - a) * b)


@pytest.mark.parametrize(
    ("alpha", "gamma", "rounds"), [(0.0, 4, 10), (1.0, 4, 2), (1.0, 8, 2), (1.0, 9, 1), (1.0, 3, 3)]
)
def test_rounds_at_the_ends(alpha: float, gamma: int, rounds: int) -> None:
    found = rounds_along(torch.full((1, 10), alpha), gamma)
    assert found.rounds.item() == rounds
    assert found.accepted.item() == alpha * found.tested.item()


@pytest.mark.parametrize("rivals", [False, True])
@pytest.mark.parametrize("gamma", [1, 2, 3, 7])
def test_rounds_equal_an_enumeration(gamma: int, rivals: bool) -> None:
    alphas, share = torch.rand(2, 3, 6, generator=torch.Generator().manual_seed(gamma), dtype=torch.float64)
    firsts = alphas * share if rivals else alphas

    def enumerate_from(row: list[float], first: list[float]) -> list[float]:
        @cache
        def after(start: int) -> tuple[float, float, float]:
            """Rounds, tests and acceptances still to come."""
            if start >= len(row):
                return 0.0, 0.0, 0.0
            sums, reached = [1.0, 0.0, 0.0], 1.0
            for place in range(start, min(start + gamma, len(row))):
                sums[1] += reached
                sums[2] += reached * row[place]
                # rejected: the recovered token is this place's; kept by a rival: a bonus token is the next place's
                for chance, begins in ((1 - row[place], place + 1), (row[place] - first[place], place + 2)):
                    sums = [x + reached * chance * y for x, y in zip(sums, after(begins), strict=True)]
                reached *= first[place]
            later = after(start + gamma + 1)
            return tuple(x + reached * y for x, y in zip(sums, later, strict=True))

        return list(after(0))

    found = rounds_along(alphas, gamma, firsts if rivals else None)
    for index, rows in enumerate(zip(alphas.tolist(), firsts.tolist(), strict=True)):
        expected = enumerate_from(*rows)
        assert [found.rounds[index], found.tested[index], found.accepted[index]] == pytest.approx(expected)
    emitted = found.accepted + found.rounds  # every round emits one token more than it keeps ...
    assert (emitted >= 6).all()  # ... but none after end-of-speech
    assert (emitted <= 7).all()


def test_what_is_heard_at_every_position(asked, monkeypatch) -> None:
    monkeypatch.setattr(movers, "contexts_of", lambda *_: (torch.arange(34) % 5).view(2, 17))
    folder = offline.study(asked(**{"decoding.sound_every": 1}))
    points = read(folder)
    assert points["exact"]["sound"] == points["exact"]["embedding"] == 0
    assert 0 < points["ensemble w=0.5"]["sound"] < points["ensemble w=0.0"]["sound"]
    assert points["ensemble w=0.5"]["sound_ci95"][0] < points["ensemble w=0.5"]["sound"]
    rows = pyarrow.parquet.read_table(folder / predictions.ROWS).to_pylist()
    assert all(row["sum_moved_positions"] == row["positions"] for row in rows)


def test_figures_equal_the_closed_forms(asked) -> None:
    folder = offline.study(asked())
    points, pairs = read(folder), by_hand()
    kept = [draft.minimum(target).sum(1) for draft, target in pairs]
    alpha = torch.cat(kept).mean().item()
    assert points["exact"]["alpha"] == pytest.approx(alpha, abs=1e-6)
    assert points["exact"]["tv"] == pytest.approx(0, abs=1e-6)
    assert points["exact"]["groups"] is None
    assert points["ensemble w=0.5"]["alpha"] == pytest.approx(1 - 0.5 * (1 - alpha), abs=1e-6)
    assert points["ensemble w=0.5"]["tv"] == pytest.approx(0.5 * (1 - alpha), abs=1e-6)
    assert points["ensemble w=0.0"]["alpha"] == pytest.approx(1, abs=1e-6)
    draft, target = (torch.cat(each) for each in zip(*pairs, strict=True))
    assert points["ensemble w=0.0"]["kl"] == pytest.approx(
        (draft * (draft / target).log()).sum(1).mean().item(), rel=1e-4
    )
    for gamma in (1, 3):
        rounds = sum(rounds_along(each[None], gamma).rounds.item() for each in kept)
        assert points["exact"]["tau"][gamma - 1] == pytest.approx(sum(map(len, kept)) / rounds, rel=1e-6)
    assert points["exact"]["alpha"] <= points["pcg theta=0.6"]["alpha"] <= points["pcg theta=0.0"]["alpha"]
    assert points["pcg theta=0.0"]["groups"]["mean_size"] == points["pcg_random theta=0.0"]["groups"]["mean_size"]
    assert {point["sound"] for point in points.values()} == {None}  # not asked for
    for point in points.values():  # no rule keeps more than exact without straying from the target's law
        assert point["alpha"] <= alpha + point["tv"] + 1e-6
    low, high = points["exact"]["alpha_ci95"]
    assert low < points["exact"]["alpha"] < high


def test_several_candidates_are_scored_as_several(asked) -> None:
    point = read(offline.study(asked(only=["exact"], **{"decoding.candidates": 3})))["exact"]
    totals = [Candidates(Exact(), 3).expected_acceptance(*pair).double() for pair in by_hand()]
    firsts = [Exact().expected_acceptance(*pair).double() for pair in by_hand()]
    assert point["alpha"] == pytest.approx(torch.cat(totals).mean().item(), abs=1e-6)
    assert point["tv"] == pytest.approx(0, abs=1e-5)
    rounds = sum(
        rounds_along(total[None], 3, first[None]).rounds.item() for total, first in zip(totals, firsts, strict=True)
    )
    assert point["tau"][2] == pytest.approx(sum(map(len, totals)) / rounds, rel=1e-6)


def test_the_same_models_are_always_accepted(asked) -> None:
    points = read(offline.study(asked(**{"draft.noise": 0.0, "only": ["exact"], "dataset.limit": 2})))
    assert points["exact"]["alpha"] == pytest.approx(1, abs=1e-6)
    assert points["exact"]["tau"] == pytest.approx([13 / 7, 13 / 5, 13 / 4, 13 / 4], rel=1e-4)  # 6 and 7 positions


def test_rows_do_not_depend_on_the_chunk(asked) -> None:
    tables = []
    for chunk in (1, 4, 256):
        folder = offline.study(asked(chunk=chunk, **{"decoding.repetition_penalty": 1.3, "decoding.top_p": 0.9}))
        tables.append(pyarrow.parquet.read_table(folder / predictions.ROWS).to_pylist())
    assert len(tables[0]) == 6 * 8
    for rows in tables[1:]:
        for row, other in zip(rows, tables[0], strict=True):
            names = [key for key, value in row.items() if isinstance(value, str)]
            assert [row.pop(key) for key in names] == [other[key] for key in names]
            assert row == pytest.approx({key: other[key] for key in row}, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "sampling", [Sampling(repetition_penalty=1.5), Sampling(0.9, 5, 0.9, 1.5, penalty_window=3, ras=RAS(4, 0.25))]
)
def test_sampling_sees_what_was_said(sampling: Sampling) -> None:
    utterance = list(Sentences(2))[1]
    prompt, speech = Tones(CPU).encode([utterance.load_prompt(), utterance.load_reference()])
    model = Bigram(CPU)
    found = torch.cat([p for _, p in offline.teacher_forced(utterance, model, model, Tones(CPU), sampling, 2)])
    voice, said = prompt.tolist(), speech.tolist()
    for place in range(len(speech) + 1):
        logits = model._table[[*voice, *said[:place]][-1]]
        torch.testing.assert_close(found[place], law_after(sampling, logits, voice, said[:place]))


def test_files_and_plots(asked, capsys) -> None:
    folder = offline.study(asked())
    shown = capsys.readouterr().out
    assert folder.name == "offline"
    for plot in ("alpha_theta", "frontier"):
        assert (folder / f"{plot}.png").read_bytes()[:4] == b"\x89PNG"
        assert "<svg" in (folder / f"{plot}.svg").read_text()
        assert f"{plot}.png" in shown
    assert "pcg_random theta=0.6" in (folder / "table.md").read_text()


def test_points_are_runs(asked) -> None:
    _, points = settings_and_points(asked(only=["pcg", "exact"]))
    assert [point.name for point in points] == ["exact", "pcg theta=0.0", "pcg theta=0.6"]
    assert [point.run.grouping.get("groups", {}).get("theta") for point in points] == [None, 0.0, 0.6]
    rules = rules_of(points)
    assert isinstance(rules[0], Exact)
    assert len(rules[2].groups.members) <= len(rules[1].groups.members)
    assert embeddings_of("target_input", Bigram(CPU), Bigram(CPU), Tones(CPU)).shape[0] == rules[1].groups.vocab_size


def test_points_of_equal_groups_share_a_table(asked) -> None:
    rules = {"one": PCG, "two": {**PCG, "residual": "draft"}}
    _, points = settings_and_points(asked(rules=rules, grids=dict.fromkeys(rules, GRIDS["pcg"])))
    built = rules_of(points)
    assert built[0].groups is built[2].groups
    assert built[0].groups is not built[1].groups


def test_all_mistakes_at_once(asked) -> None:
    grids = {"pcg": {"groups": {"theta": [0.4, 1.5]}}, "ssd": {"beta": [0.1]}}
    with pytest.raises(ConfigError) as caught:
        offline.check(asked(only=["pcg", "exakt"], grids=grids, chunk=0))
    problems = "\n".join(caught.value.problems)
    assert "chunk=0: 1 or more" in problems
    assert "only.exakt: no such rule; did you mean 'exact'?" in problems
    assert "grids.ssd: no such rule" in problems
    assert "rules.pcg.groups" in problems
    assert "theta=1.5" in problems


def test_a_dataset_without_recordings_is_an_error(asked, monkeypatch) -> None:
    utterances = [type(u)(u.id, u.text, u.speaker, u.prompt_text, u.load_prompt) for u in Sentences(2)]
    monkeypatch.setattr(Sentences, "__iter__", lambda self: iter(utterances))
    with pytest.raises(ValueError, match="'u/0' has no recording"):
        offline.study(asked())


def test_the_command_line_is_checked() -> None:
    cli.check_command_line(
        "offline", ["only=[exact,pcg]", "thetas=[0.3,0.45]", "rules.pcg.groups.center=true"], offline.check
    )
    with pytest.raises(ConfigError, match=r"(?s)rules\.coupling\.groups\.theta=2\.5.*rules\.ssd\.beta=-1\.5"):
        cli.check_command_line("offline", ["thetas=[2.5]", "grids.ssd.beta=[-1.5]"], offline.check)
