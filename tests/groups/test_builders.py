"""Builders against the definition worked out densely, whatever the block size; masks, errors, warnings."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch.nn.functional import normalize

from pcg.groups import cosine, knn, similarity
from pcg.groups.cache import build_cached, describe, key_of
from pcg.groups.cosine import Cosine
from pcg.groups.identity import Identity
from pcg.groups.kmeans import KMeans
from pcg.groups.knn import KNN
from pcg.groups.lattice import Lattice
from pcg.groups.random_like import RandomLike
from pcg.groups.table import GroupTable

VOCAB = 40
EMBEDDINGS = torch.randn(VOCAB, 3, generator=torch.Generator().manual_seed(0))
GROUPABLE = torch.ones(VOCAB, dtype=torch.bool)
GROUPABLE[[5, 20, 39]] = False
CODEBOOK = torch.ones(VOCAB, dtype=torch.bool)
CODEBOOK[36:] = False
BUILDERS = [
    (Cosine(0.6), GROUPABLE),
    (Cosine(0.6, center=True), GROUPABLE),
    (KNN(4), GROUPABLE),
    (KMeans(6), GROUPABLE),
    (Lattice([4, 3, 3], 1), CODEBOOK),
    (Identity(), GROUPABLE),
    (RandomLike(Cosine(0.6)), GROUPABLE),
]


@pytest.fixture(params=[7, 2048], ids=lambda size: f"block{size}")
def _block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (similarity, cosine, knn):
        monkeypatch.setattr(module, "BLOCK", request.param)


def members_of(table: GroupTable) -> list[list[int]]:
    return [group.tolist() for group in table.members.split(table.sizes.tolist())]


@pytest.mark.usefixtures("_block")
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("groupable", [GROUPABLE, None])
def test_cosine(groupable: torch.Tensor | None, center: bool) -> None:
    mask = torch.ones(VOCAB, dtype=torch.bool) if groupable is None else groupable
    rows = normalize(EMBEDDINGS - EMBEDDINGS[mask].mean(0) * center, dim=1)
    near = (rows @ rows.t() > 0.6) & mask & mask.unsqueeze(1)
    near.fill_diagonal_(True)
    table = Cosine(0.6, center).build(EMBEDDINGS, groupable)
    assert members_of(table) == [row.nonzero().squeeze(1).tolist() for row in near]
    assert table.symmetric
    assert GroupTable.from_members(members_of(table), VOCAB).symmetric  # and rightly so


@pytest.mark.usefixtures("_block")
def test_knn() -> None:
    rows = normalize(EMBEDDINGS, dim=1)
    near = (rows @ rows.t()).masked_fill(~GROUPABLE, -2).fill_diagonal_(2)
    expected = [sorted(near[t].topk(5).indices.tolist()) if GROUPABLE[t] else [t] for t in range(VOCAB)]
    assert members_of(KNN(4).build(EMBEDDINGS, GROUPABLE)) == expected


def test_kmeans() -> None:
    table = KMeans(6).build(EMBEDDINGS, GROUPABLE)
    assert sorted(t for group in members_of(table) for t in group) == list(range(VOCAB))
    assert len(table) == 6 + 3
    assert table == KMeans(6).build(EMBEDDINGS, GROUPABLE)
    shifted = KMeans(6).build(EMBEDDINGS * 0.5, GROUPABLE)
    assert shifted == table  # clusters do not depend on the scale


@pytest.mark.parametrize("radius", [0, 1, 2])
def test_lattice(radius: int) -> None:
    levels = [4, 3, 3]
    digits = [(t % 4, t // 4 % 3, t // 12) for t in range(36)]

    def near(a: int, b: int) -> bool:
        return sum(abs(x - y) for x, y in zip(digits[a], digits[b], strict=True)) <= radius

    expected = [[b for b in range(36) if near(a, b)] for a in range(36)] + [[t] for t in range(36, VOCAB)]
    assert members_of(Lattice(levels, radius).build(EMBEDDINGS, CODEBOOK)) == expected
    assert members_of(Lattice(levels, radius).build(EMBEDDINGS[:37], None))[:36] == expected[:36]


@pytest.mark.parametrize("like", [Cosine(0.6), KMeans(6), KNN(4)], ids=describe)
def test_random_control_keeps_sizes_and_overlaps(like: Cosine | KMeans | KNN) -> None:
    table = like.build(EMBEDDINGS, GROUPABLE)
    control = RandomLike(like, seed=1).build(EMBEDDINGS, GROUPABLE)
    assert sorted(control.sizes.tolist()) == sorted(table.sizes.tolist())
    assert sorted(control.counts.tolist()) == sorted(table.counts.tolist())
    assert control != table
    assert control != RandomLike(like, seed=2).build(EMBEDDINGS, GROUPABLE)
    assert control == GroupTable.from_members(members_of(control), VOCAB)
    assert control.symmetric == table.symmetric == GroupTable.from_members(members_of(control), VOCAB).symmetric
    if len(table) == VOCAB:
        assert all(k in group for k, group in enumerate(members_of(control)))


@pytest.mark.parametrize(("builder", "groupable"), BUILDERS, ids=lambda x: "" if torch.is_tensor(x) else describe(x))
def test_what_may_not_be_grouped_stays_alone(builder: Cosine, groupable: torch.Tensor) -> None:
    table = builder.build(EMBEDDINGS, groupable)
    table.check(groupable)
    assert table.vocab_size == VOCAB


def test_rows_without_direction_are_alone() -> None:
    embeddings = EMBEDDINGS.clone()
    embeddings[7] = 0
    assert members_of(Cosine(0.6).build(embeddings, None))[7] == [7]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Cosine(1.0), "theta=1.0"),
        (lambda: Cosine(-1.1), "theta=-1.1"),
        (lambda: Cosine(float("nan")), "theta=nan"),
        (lambda: KNN(0), "k=0"),
        (lambda: KMeans(0), "clusters=0"),
        (lambda: Lattice([], 1), "levels="),
        (lambda: Lattice([4, 0], -1), "levels=.*radius=-1"),
        (lambda: KNN(37).build(EMBEDDINGS, GROUPABLE), "only 36 others"),
        (lambda: KMeans(38).build(EMBEDDINGS, GROUPABLE), "only 37 tokens"),
        (lambda: Lattice([4, 4], 1).build(EMBEDDINGS, GROUPABLE), "make 16 tokens"),
        (lambda: Lattice([4, 4, 4], 1).build(EMBEDDINGS, None), "make 64 tokens"),
        (lambda: Lattice([4, 3, 3], 1).build(EMBEDDINGS, None), "make 36 tokens"),
        (lambda: Cosine(0.5).build(EMBEDDINGS, ~torch.ones(VOCAB, dtype=torch.bool)), "no token is groupable"),
        (lambda: Cosine(0.5).build(EMBEDDINGS * torch.nan, None), "NaN"),
    ],
)
def test_bad_input_is_one_clear_error(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_mask_of_another_length_is_refused() -> None:
    with pytest.raises((ValueError, TypeError), match="groupable"):  # a TypeError where shapes are checked
        Cosine(0.5).build(EMBEDDINGS, GROUPABLE[:-1])


def test_a_table_too_large_is_refused_while_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cosine, "MOST", 100)
    with pytest.raises(ValueError, match="theta=0 makes a table of over 100 memberships"):
        Cosine(0.0).build(EMBEDDINGS, None)


def test_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cache"
    built = build_cached(Cosine(0.6), EMBEDDINGS, GROUPABLE, folder)
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]  # and nothing unfinished
    monkeypatch.setattr(Cosine, "build", None)
    assert build_cached(Cosine(0.6), EMBEDDINGS, GROUPABLE, folder) == built


def test_a_cache_that_cannot_be_written_costs_the_building_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(self, path):  # type: ignore[no-untyped-def]
        Path(path).write_text("half of it")
        raise OSError("disk full")

    own = Cosine(0.6).build(EMBEDDINGS, GROUPABLE)
    (tmp_path / "file").touch()
    assert build_cached(Cosine(0.6), EMBEDDINGS, GROUPABLE, tmp_path / "file") == own
    monkeypatch.setattr(GroupTable, "save", fail)
    assert build_cached(Cosine(0.6), EMBEDDINGS, GROUPABLE, tmp_path / "full") == own
    assert list((tmp_path / "full").iterdir()) == []
    assert f"{tmp_path}/full cannot be written (disk full); the next run builds the groups again" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\x08", b"x" * 400, "cut", "other"])
def test_a_broken_file_of_the_cache_is_named_and_built_anew(
    content: bytes | str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    built = build_cached(Cosine(0.6), EMBEDDINGS, GROUPABLE, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    if content == "other":
        GroupTable.from_members([[0]], 3).save(file)
    else:
        file.write_bytes(whole[:-8] if isinstance(content, str) else content)
    assert build_cached(Cosine(0.6), EMBEDDINGS, GROUPABLE, tmp_path) == built
    assert f"{file} cannot be read" in caplog.text
    assert GroupTable.load(file) == built


def test_what_was_built_is_told_in_words(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    build_cached(Cosine(0.6), EMBEDDINGS, GROUPABLE, tmp_path)
    (told,) = caplog.messages
    assert re.fullmatch(
        r"built Cosine\(theta=0.6, center=False\): \d+ groups of \d+\.\d tokens on average, \d+ at most; "
        r"\d+ of 40 tokens have a group of their own",
        told,
    )


def test_the_cache_warns_too(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.warns(UserWarning, match="every group is a singleton"):
            build_cached(Cosine(0.9999), EMBEDDINGS, GROUPABLE, tmp_path)


def test_keys_tell_everything_apart() -> None:
    builders = [
        *(Cosine(0.6), Cosine(0.5), Cosine(0.6, center=True), KNN(4), KNN(5), Lattice([4, 3]), Lattice([3, 4])),
        *(RandomLike(Cosine(0.6)), RandomLike(Cosine(0.5)), RandomLike(Cosine(0.6), 1)),
    ]
    keys = {key_of(builder, EMBEDDINGS, GROUPABLE) for builder in builders}
    keys |= {key_of(Cosine(0.6), EMBEDDINGS + 1, GROUPABLE), key_of(Cosine(0.6), EMBEDDINGS, None)}
    keys |= {key_of(Cosine(0.6), EMBEDDINGS.bfloat16(), GROUPABLE)}
    assert len(keys) == len(builders) + 3
    assert key_of(Cosine(0.6), EMBEDDINGS.clone(), GROUPABLE.clone()) == key_of(Cosine(0.6), EMBEDDINGS, GROUPABLE)
