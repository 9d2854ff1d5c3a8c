"""Groups by sound on codecs whose sounds are known: by hand, against all pairs worked out densely, on a real shape."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pcg.codecs.bundled import BundledCodec
from pcg.codecs.xcodec2 import Xcodec2
from pcg.data.bundled import Bundled
from pcg.groups import sound, token_sounds
from pcg.groups.cache import build_cached, describe, key_of
from pcg.groups.sound import Sound
from pcg.groups.table import GroupTable
from pcg.groups.token_sounds import contexts_of, log_mel
from pcg.types import Audio, Utterance
from tests.shapes import make_xcodec2

LEVELS = [0.0, 1.0, 2.5, 10.0, 11.0, 30.0]  # dB
END = len(LEVELS)
GROUPABLE = torch.arange(END + 1) < END


class Levels:
    """A codec whose tokens have one level each; it is heard in its own token and nowhere else."""

    sample_rate, frame, hop = 16_000, 1, 320

    def __init__(self, levels: Sequence[float]) -> None:
        self.levels, self.codebook_size = torch.tensor(levels), len(levels)
        self.heard = 0

    def encode(self, audio: Sequence[Audio]) -> list[Tensor]:
        return [torch.arange(len(clip.samples) // self.hop) % self.codebook_size for clip in audio]

    def decode(self, tokens: Sequence[Tensor]) -> list[Audio]:
        raise AssertionError("it has spectra")

    def codebook(self) -> Tensor:
        return self.levels[:, None]

    def spectra(self, tokens: Tensor) -> Tensor:
        self.heard += len(tokens)
        return self.levels[tokens][..., None]


class Tones(Levels):
    """Has no spectra: a sine of 500 Hz at the token's level below full scale."""

    spectra = None  # type: ignore[assignment]

    def decode(self, tokens: Sequence[Tensor]) -> list[Audio]:
        wave = np.sin(2 * np.pi * 500 * np.arange(self.hop) / self.sample_rate)
        return [
            Audio(np.concatenate([10 ** (self.levels[t].item() / 20) * wave for t in row]), self.sample_rate)
            for row in tokens
        ]


class Voices:
    def __init__(self, *lengths: int) -> None:
        self._lengths = lengths

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[Utterance]:
        for index, length in enumerate(self._lengths):
            yield Utterance(str(index), "said", load_prompt=lambda length=length: Audio(np.zeros(320 * length), 16_000))


def made(codec: object = None, **settings: object) -> Sound:
    defaults = {"codec": codec or Levels(LEVELS), "codec_name": "levels", "voices": Voices(40, 50), "contexts": 2}
    return Sound(**{**defaults, "k": 1, "embedding": False, **settings})


def members_of(table: GroupTable) -> list[list[int]]:
    return [group.tolist() for group in table.members.split(table.sizes.tolist())]


EMBEDDINGS = torch.randn(END + 1, 3, generator=torch.Generator().manual_seed(0))
NEAREST = [[0, 1], [0, 1], [1, 2], [3, 4], [3, 4], [4, 5], [6]]
# a token is heard in five places, and differs in one of them: 1 dB is sqrt(1 / 5) = .447 dB root mean square
WITHIN = [[0, 1], [0, 1, 2], [1, 2], [3, 4], [3, 4], [5], [6]]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"k": 1}, NEAREST),
        ({"k": None, "radius": 0.7}, WITHIN),
        ({"k": 1, "radius": 0.7}, [[0, 1], [0, 1], [1, 2], [3, 4], [3, 4], [5], [6]]),
    ],
)
@pytest.mark.parametrize("stripe", [4, 512])
def test_by_hand(settings: dict, expected: list, stripe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "_STRIPE", stripe)
    table = made(**settings).build(EMBEDDINGS, GROUPABLE)
    assert members_of(table) == expected
    table.check(GROUPABLE)  # end-of-speech is alone
    assert table == GroupTable.from_members(expected, END + 1)
    assert table.symmetric == GroupTable.from_members(expected, END + 1).symmetric == (expected is WITHIN)
    holders = table.holders.split(table.counts.tolist())
    assert [t.tolist() for t in holders] == [[k for k in range(7) if t in expected[k]] for t in range(7)]


@pytest.mark.parametrize("stripe", [7, 512])
def test_joined_neighbourhoods_are_the_least_sums_of_ranks(stripe: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "_STRIPE", stripe)
    generator = torch.Generator().manual_seed(1)
    levels, embeddings = 10 * torch.randn(30, generator=generator), torch.randn(31, 3, generator=generator)
    cosine = normalize(embeddings[:30], dim=1) @ normalize(embeddings[:30], dim=1).t()
    expected = []
    for token in range(30):
        others = [t for t in range(30) if t != token]
        by_sound = sorted(others, key=lambda t: abs(levels[t] - levels[token]).item())
        by_cosine = sorted(others, key=lambda t: -cosine[token, t].item())
        joined = sorted(others, key=lambda t: (by_sound.index(t) + by_cosine.index(t), by_sound.index(t)))
        expected.append(sorted([token, *joined[:5]]))
    table = made(Levels(levels.tolist()), k=5, embedding=True).build(embeddings, torch.arange(31) < 30)
    assert members_of(table) == [*expected, [30]]


def test_any_codec_is_heard_by_what_it_decodes() -> None:
    quieter = [level - 40 for level in LEVELS]  # 0 dB is full scale
    codec = Tones(quieter)
    assert members_of(made(codec).build(EMBEDDINGS, GROUPABLE)) == NEAREST
    loudest = log_mel(codec, torch.tensor([[0] * 9, [4] * 9]))[:, 4].amax(1)
    assert (loudest[1] - loudest[0]).item() == pytest.approx(11, abs=0.01)
    assert log_mel(Tones([-200.0]), torch.tensor([[0] * 9])).unique().tolist() == [-80]


def test_xcodec2(tmp_path: Path) -> None:
    codec = Xcodec2(str(make_xcodec2(tmp_path, levels=(3, 4))))
    builder = made(codec, voices=Bundled(), k=3, embedding=True)
    table = builder.build(torch.randn(13, 4, generator=torch.Generator().manual_seed(0)), torch.arange(13) < 12)
    assert table.sizes.tolist() == [4] * 12 + [1]


def test_a_projection_keeps_distances(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = BundledCodec("bundled:codec")
    codec.codebook_size = 64
    contexts = contexts_of(Bundled(), codec, 2)
    projected = token_sounds.sounds_of(codec, contexts).float()
    monkeypatch.setattr(token_sounds, "DIMS", 2 * 5 * 200)
    whole = token_sounds.sounds_of(codec, contexts).float()
    assert projected.shape == (64, 512)
    assert whole.shape == (64, 2000)
    ratio = (torch.pdist(projected) / torch.pdist(whole)).square()
    assert ratio.std() < 0.08
    assert ratio.mean() == pytest.approx(1, abs=0.03)


def test_contexts_are_stretches_of_the_recordings() -> None:
    contexts = contexts_of(Voices(40, 23), Levels([0.0] * 100), 3)
    assert contexts[:, 0].tolist() == [23 // 4, 6 * 2 // 4, 23 * 3 // 4]  # a quarter, a half, three quarters in
    assert (contexts == contexts[:, :1] + torch.arange(17)).all()


def test_nothing_is_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    class Largest(TorchDispatchMode):
        numel = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            result = func(*args, **(kwargs or {}))
            sizes = [leaf.untyped_storage().nbytes() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
            self.numel = max(self.numel, *sizes, 0)
            return result

    monkeypatch.setattr(sound, "_STRIPE", 16)
    vocab = 3000
    levels, embeddings = torch.randn(vocab).tolist(), torch.randn(vocab, 4)
    with Largest() as largest:
        table = made(Levels(levels), k=5, embedding=True).build(embeddings, None)
    assert table.sizes.tolist() == [6] * vocab
    assert largest.numel == 8 * 16 * vocab  # the ranks of a stripe, where all pairs would be 72 MB


def test_what_was_heard_is_kept(tmp_path: Path) -> None:
    first, again = Levels(LEVELS), Levels(LEVELS)
    made(first, cache=tmp_path).build(EMBEDDINGS, GROUPABLE)
    assert first.heard == 2 * END
    table = made(again, cache=tmp_path, k=2).build(EMBEDDINGS, GROUPABLE)  # another table of the same sounds
    assert again.heard == 0
    assert table == made(k=2).build(EMBEDDINGS, GROUPABLE)
    made(again, cache=tmp_path, codec_name="trained further").build(EMBEDDINGS, GROUPABLE)
    assert again.heard == 2 * END
    made(again, cache=tmp_path, voices=Voices(40, 57)).build(EMBEDDINGS, GROUPABLE)
    assert again.heard == 4 * END


def test_tables_are_kept_by_codec_and_places(tmp_path: Path) -> None:
    builders = [
        made(), made(k=2), made(radius=0.7), made(embedding=True), made(contexts=1), made(codec_name="another"),
        made(voices=Voices(41, 50)),
    ]  # fmt: skip
    assert len({key_of(builder, EMBEDDINGS, GROUPABLE) for builder in builders}) == len(builders)
    assert key_of(made(), EMBEDDINGS, GROUPABLE) == key_of(made(cache=tmp_path), EMBEDDINGS, GROUPABLE)
    assert "0x" not in describe(made())  # no object by its address
    codec = Levels(LEVELS)
    for _ in range(2):
        build_cached(made(codec), EMBEDDINGS, GROUPABLE, tmp_path)
    assert codec.heard == 2 * END


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: made(k=None), "k=null needs a radius and embedding=false"),
        (lambda: made(k=None, radius=1.0, embedding=True), "radius=1.0, embedding=True"),
        (lambda: made(voices=Voices(16)), "has 16 tokens; 17 are needed"),
        (lambda: made(voices=Voices()), "has no recordings"),
        (lambda: made(k=6).build(EMBEDDINGS, GROUPABLE), "k=6, but a token has only 5 others"),
        (lambda: made().build(EMBEDDINGS, None), "token 6 is groupable, but the codec has only 6 tokens"),
    ],
)
def test_bad_input_is_one_clear_error(make, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        make()


def test_a_table_too_large_is_refused_while_it_is_built(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sound, "MOST", 10)
    with pytest.raises(ValueError, match="over 10 memberships; lower k=4 or radius=None"):
        made(k=4).build(EMBEDDINGS, GROUPABLE)
