"""``decoding.control`` in a run: what is refused, what is told, and that a fixed one changes nothing."""

from __future__ import annotations

import pytest

from pcg.config.identity import canonical, label, run_id
from pcg.config.validate import ConfigError
from pcg.runner.run import run_once
from tests.runner.test_run import GROUPS

PCG = {"_target_": "pcg.acceptance.pcg.PCG", "groups": GROUPS, "theta": 0.4, "residual": "target"}
ADAPTIVE = {"_target_": "pcg.decoding.control.adaptive.Adaptive", "draft_cost": 0.2, "thetas": [0.2, 0.5]}
FIXED = {"_target_": None}


def test_a_fixed_one_is_the_run_without(config) -> None:
    plain, fixed = config(), config(**{"decoding.control": FIXED})
    assert run_id(canonical(plain)) == run_id(canonical(fixed))
    assert label(canonical(fixed)) == "exact"


def test_what_is_not_read_makes_no_other_run(config) -> None:
    """Thetas without a budget, and the run's own theta with one."""

    def name(theta: float, **control: object) -> str:
        groups = {**PCG, "theta": theta, "groups": {**GROUPS, "theta": theta}}
        return run_id(canonical(config(**{"grouping": groups, "decoding.control": {**ADAPTIVE, **control}})))

    assert name(0.4) == name(0.4, thetas=[0.1], horizon=7) != name(0.4, draft_cost=0.3)
    assert name(0.4, budget=1.0) == name(0.6, budget=1.0) != name(0.4, budget=2.0)
    assert name(0.4, budget=1.0) != name(0.4)


def test_a_run_tells_what_was_chosen(config) -> None:
    """With a budget that does not run out it says what the widest groups say."""
    large = {**ADAPTIVE, "budget": 1e6}
    length, budget = (
        run_once(
            config(**{"grouping": {**PCG, "groups": {**GROUPS, "theta": 0.2}}, "decoding.control": control})
        ).values
        for control in (ADAPTIVE, large)
    )
    assert length["counts"] == budget["counts"]
    assert length["label"] == "pcg theta=0.2 control=adaptive"
    assert budget["label"] == "pcg theta=0.2 control=adaptive budget=1000000.0"
    chosen = length["control"]
    assert sum(chosen["rounds_by_gamma"]) == length["counts"]["rounds"]
    assert 1 < chosen["gamma"] < 3
    assert length["counts"]["drafted"] == pytest.approx(chosen["gamma"] * length["counts"]["rounds"])
    assert length["counts"]["draft_passes"] > length["counts"]["drafted"]  # two rows, of which one waits
    assert chosen["tested_by_theta"] is chosen["budget_spent"] is None
    assert budget["control"]["tested_by_theta"] == [budget["counts"]["tested"], 0, 0]
    spent = budget["distortion"]["tv"] * budget["counts"]["tested"] / 6
    assert budget["control"]["budget_spent"] == pytest.approx(spent)
    assert set(run_once(config()).values["control"].values()) == {None}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"decoding.candidates": 2}, r"a tree of candidates knows none; decoding/control=fixed, or candidates=1"),
        ({"decoding.mode": "law"}, r"decoding\.mode=law has no rounds"),
        ({"decoding.control": {**ADAPTIVE, "budget": -1.0}}, r"decoding\.control\.budget=-1\.0: 0 or more, or null"),
        ({"decoding.control": {**ADAPTIVE, "budget": 1.0, "thetas": []}}, r"control\.thetas: a budget needs some"),
        ({"decoding.control": {**ADAPTIVE, "thetas": [0.5, 0.2]}}, r"control\.thetas=\[0\.5, 0\.2\]: numbers from -1"),
        ({"decoding.control": {**ADAPTIVE, "lest": 1}}, r"decoding\.control\.lest: unknown key; did you mean 'least'"),
        (
            {"decoding.control": {**ADAPTIVE, "budget": 1.0}, "grouping": {"_target_": "pcg.acceptance.exact.Exact"}},
            r"control\.budget: chooses the theta of groups",
        ),
        (
            {
                "decoding.control": {**ADAPTIVE, "budget": 1.0},
                "grouping": {"_target_": "pcg.acceptance.bucket.Bucket", "groups": GROUPS},
            },
            r"control\.budget: a budget chooses the theta of pcg, .*not of Bucket",
        ),
        (
            {"grouping": {"_target_": "pcg.acceptance.dropmatch.DropMatch"}},
            r"decoding\.control: DropMatch reads states of whole blocks",
        ),
    ],
)
def test_what_cannot_be_is_named(changes: dict, message: str, config) -> None:
    with pytest.raises(ConfigError, match=message):
        run_once(config(**{"decoding.control": ADAPTIVE, "grouping": PCG, **changes}))
