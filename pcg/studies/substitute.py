"""The paper's ablation: what does it cost to swap tokens inside their groups?

Source: arXiv 2511.13732, by its public summaries (91.4 % of tokens swapped: WER +.007, similarity -.027). Recordings
are encoded. Every token whose group has other members is replaced by a uniform draw from the group, the token itself
included. The codec decodes both versions, and the metrics of both are compared. No language model takes part, so that
every difference comes from the groups.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from pcg import constraints
from pcg.config.build import is_built
from pcg.config.settings import Settings
from pcg.constraints import SHARE_ABOVE_0
from pcg.groups.table import GroupTable
from pcg.interfaces import TokenLM
from pcg.metrics.aggregate import Ratio, paired_difference, ratio
from pcg.report import tables
from pcg.results import environment
from pcg.results.records import write_atomically, write_json
from pcg.runner.batch import wav_name, write_wav
from pcg.runner.composition import Composition, load
from pcg.runner.loading import with_dataset
from pcg.runner.scores import ScoreMemo
from pcg.sampling import Purpose, Randomness, as_keys
from pcg.studies import plots
from pcg.studies.grid import Point, rules_of, settings_and_points, with_progress
from pcg.types import Audio, Utterance

SCHEMA = 1
FOLDER, NAME = "substitute", "substitute.json"
RECORDING, UNSWAPPED = "recording", "resynthesis"  # the conditions beside the swapped ones
_KEYS = {"share": Annotated[float, SHARE_ABOVE_0]}  # of conf/substitute.yaml and not of a run


def check(config: Mapping[str, Any]) -> tuple[Settings, list[Point]]:
    """Settings and points of conf/substitute.yaml.

    Raises:
        ConfigError: everything that is wrong with it.
    """
    problems = constraints.problems(config, _KEYS)
    if not is_built(config["codec"]):
        problems.append("codec is required: pcg substitute codec=NAME")

    def problems_of(point: Point) -> list[str]:
        has_groups = "groups" in (point.run.grouping or {})
        return [] if has_groups else [f"rules.{point.curve}: has no groups, in which the study swaps tokens"]

    return settings_and_points(config, problems, problems_of)


def study(config: Mapping[str, Any]) -> Path:
    """Swap, decode and score, write ``outputs/<study>/substitute/`` and show the table; returns that folder.

    Raises:
        ConfigError: the config cannot run.
        ValueError: an utterance has no reference recording, or two have the same id.
    """
    settings, points = check(config)
    torch.set_num_threads(settings.threads)
    run = with_dataset(points[0].run)
    composed = load(run)
    rules = zip(points, rules_of(points), strict=True)
    groups = {point.name: rule.groups.to("cpu") for point, rule in rules}  # type: ignore[attr-defined]
    swapper = _Swapper(composed, run.metrics, groups, config["share"], settings.seed, settings.study_folder / FOLDER)
    rows = [row for spoken in with_progress(composed.dataset, "substitute") for row in swapper.rows(spoken)]
    ratios = {key: figure.columns for metric in composed.metrics.values() for key, figure in metric.figures.items()}
    values = {
        "schema": SCHEMA,
        "study": settings.study,
        "share": config["share"],
        "seed": settings.seed,
        "config": {key: run.values[key] for key in ("target", "codec", "dataset", "metrics", "fingerprints")},
        **environment.about(composed.device),
        "utterances": len(composed.dataset),
        "conditions": _summary(points, groups, rows, ratios),
    }
    return _write(settings.study_folder / FOLDER, values, rows)


@dataclass(frozen=True)
class Swap:
    """Tokens after the swap.

    Attributes:
        company: whether the token's group has other members.
        drawn: whether the token was drawn again; the draw may have given the same token.
    """

    tokens: Int[Tensor, "length"]
    company: Bool[Tensor, "length"]
    drawn: Bool[Tensor, "length"]


def swap(tokens: Int[Tensor, "length"], table: GroupTable, share: float, randomness: Randomness) -> Swap:
    """Replace a share of the tokens whose group has other members by a uniform draw from the group.

    A token's group is the one that it seeds (group k of token k). In a table that has not one group a token it is one
    of those that hold the token, each with the same probability. Random numbers depend on seed, utterance and position,
    and neither on the table nor on the share.

    Args:
        randomness: of one row, the utterance's.
    """
    positions = torch.arange(len(tokens))
    choose, member, keep = (
        randomness.uniform(positions[None], purpose)[0] for purpose in (Purpose.GROUP, Purpose.TOKEN, Purpose.ACCEPT)
    )
    tokens = tokens.cpu()
    groups = tokens if table.seeded else table.draw_group(tokens, choose).long()
    sizes = table.sizes[groups]
    company = sizes > 1
    drawn = company & (keep < share)
    picked = table.members[table.member_starts[groups] + (member * sizes).long()].long()
    return Swap(torch.where(drawn, picked, tokens), company, drawn)


@dataclass(frozen=True)
class _Swapper:
    """Makes the audio of every condition of an utterance, and scores it."""

    composition: Composition[TokenLM]
    metric_nodes: Mapping[str, Any]
    groups: Mapping[str, GroupTable]
    share: float
    seed: int
    folder: Path

    def rows(self, utterance: Utterance) -> list[dict[str, Any]]:
        """One row a condition; the audio is written meanwhile."""
        if utterance.load_reference is None:
            raise ValueError(f"utterance {utterance.id!r} has no reference recording, which the study swaps tokens of")
        recording, codec = utterance.load_reference(), self.composition.codec
        assert codec is not None  # ``check`` requires one
        tokens = codec.encode([recording])[0].cpu()
        randomness = Randomness(self.seed, as_keys([utterance.id], torch.device("cpu")))
        swaps = {name: swap(tokens, table, self.share, randomness) for name, table in self.groups.items()}
        clips = codec.decode([tokens, *(swapped.tokens for swapped in swaps.values())])
        audio = dict(zip([RECORDING, UNSWAPPED, *swaps], [recording, *clips], strict=True))
        scores = ScoreMemo().score(
            self.composition.metrics, self.metric_nodes, list(audio.values()), [utterance] * len(audio)
        )
        return [
            self._row(utterance, name, clip, tokens, swaps.get(name)) | {**score}
            for (name, clip), score in zip(audio.items(), scores, strict=True)
        ]

    def _row(
        self, utterance: Utterance, condition: str, audio: Audio, tokens: Int[Tensor, "length"], swapped: Swap | None
    ) -> dict[str, Any]:
        path = f"{condition.replace(' ', '_')}/{wav_name(utterance)}"
        write_wav(self.folder / path, audio)
        return {
            "condition": condition,
            "utterance": utterance.id,
            "speaker": utterance.speaker,
            "audio": path,
            "tokens": len(tokens),
            "company": 0 if swapped is None else int(swapped.company.sum()),
            "drawn": 0 if swapped is None else int(swapped.drawn.sum()),
            "swapped": 0 if swapped is None else int((swapped.tokens != tokens).sum()),
        }


def _summary(
    points: Sequence[Point],
    groups: Mapping[str, GroupTable],
    rows: Sequence[Mapping[str, Any]],
    ratios: Mapping[str, tuple[str, str | None]],
) -> list[dict[str, Any]]:
    """By condition: shares, figures, and each figure's difference from the unswapped audio, paired by utterance."""
    by_condition: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        by_condition.setdefault(row["condition"], []).append(row)
    of_point = {point.name: point for point in points}
    unswapped = by_condition[UNSWAPPED]
    conditions = []
    for name, own in by_condition.items():
        point, total = of_point.get(name), sum(row["tokens"] for row in own)
        figures: dict[str, Any] = {}
        for figure, columns in ratios.items():
            value = ratio(*_columns(own, columns))
            change = paired_difference(_columns(own, columns), _columns(unswapped, columns))
            figures |= {figure: value.value, f"{figure}_ci95": value.ci95}
            figures |= {f"{figure}_change": change.value, f"{figure}_change_ci95": change.ci95}
        conditions.append(
            {
                "name": name,
                "curve": None if point is None else point.curve,
                "grouping": None if point is None else point.run.grouping,
                "groups": None if point is None else groups[name].report(),
                **{f"{kind}_share": sum(row[kind] for row in own) / total for kind in ("company", "drawn", "swapped")},
                **figures,
            }
        )
    return conditions


def _columns(rows: Sequence[Mapping[str, Any]], names: tuple[str, str | None]) -> Ratio:
    top, bottom = names
    return [row[top] for row in rows], None if bottom is None else [row[bottom] for row in rows]


def _write(folder: Path, values: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Path:
    write_json(folder / NAME, values)
    write_atomically(folder / "utterances.csv", tables.comma_separated(rows))
    header, cells = _table(values["conditions"])
    write_atomically(folder / "table.md", tables.markdown(header, cells))
    flat = [
        {key: value for key, value in row.items() if key not in ("grouping", "groups")} for row in values["conditions"]
    ]
    write_atomically(folder / "table.csv", tables.comma_separated(flat))
    console = tables.console(200)
    console.print(tables.rich_table(f"{values['study']}, swapped inside groups", header, cells))
    drawn = plots.draw_substitution(values["conditions"], folder)
    for path in (folder / NAME, folder / "table.md", folder / "table.csv", folder / "utterances.csv", *drawn):
        console.print(str(path), soft_wrap=True)
    console.print(f"{folder}/*/audio/*.wav", soft_wrap=True)
    return folder


def _table(conditions: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[str]]]:
    """Header and cells. In brackets is the change from the unswapped audio, with its interval."""
    figures = plots.figures_of(conditions)
    header = ["method", "mean group", "company %", "swapped %", *figures]
    rows = [
        [
            row["name"],
            tables.figure("{:.1f}", (row["groups"] or {}).get("mean_size")),
            tables.figure("{:.1%}", row["company_share"]),
            tables.figure("{:.1%}", row["swapped_share"]),
            *(_figure(row, figure) for figure in figures),
        ]
        for row in conditions
    ]
    return header, rows


def _figure(row: Mapping[str, Any], figure: str) -> str:
    shown = tables.figure("{:.3f}", row[figure])
    if row[figure] is None or row["name"] == UNSWAPPED or row[f"{figure}_change_ci95"] is None:
        return shown
    return f"{shown} ({tables.figure('{:+.3f}', row[f'{figure}_change'], row[f'{figure}_change_ci95'])})"
