"""What the proofs of all rules share: pairs of distributions, tables of groups, simulation, and a test of fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache

import torch
from jaxtyping import Float, Int, config
from torch import Tensor

from pcg.acceptance.block import Block
from pcg.acceptance.bucket import Bucket
from pcg.acceptance.cascade import Cascade
from pcg.acceptance.coupling import Coupling
from pcg.acceptance.ensemble import Ensemble
from pcg.acceptance.exact import Exact
from pcg.acceptance.gsd import GSD
from pcg.acceptance.lantern import Lantern
from pcg.acceptance.pcg import PCG
from pcg.acceptance.pcg_block import PCGBlock
from pcg.acceptance.relaxed import Relaxed
from pcg.acceptance.ssd import SSD
from pcg.acceptance.topk import TopK
from pcg.acceptance.typical import Typical
from pcg.acceptance.vadusa import Vadusa
from pcg.groups.table import GroupTable
from pcg.sampling import Purpose, Randomness, draw

RULES: dict[str, Callable[[int], object]] = {
    "exact": lambda vocab: Exact(),
    "ssd": lambda vocab: SSD(0.3),
    "ensemble": lambda vocab: Ensemble(0.6),
    "typical": lambda vocab: Typical(0.09, 0.6),
    "topk": lambda vocab: TopK(vocab // 4),
    "relaxed": lambda vocab: Relaxed(vocab // 4, 0.1),
    "relaxed_argmax": lambda vocab: Relaxed(vocab // 4, 0.1, "argmax"),
    "vadusa": lambda vocab: Vadusa(3),
    "bucket": lambda vocab: Bucket(table(vocab, "windows")),
    "pcg": lambda vocab: PCG(table(vocab, "windows")),
    "pcg_draft": lambda vocab: PCG(table(vocab, "windows"), "draft"),
    "pcg_ragged": lambda vocab: PCG(table(vocab, "ragged")),
    "pcg_draft_ragged": lambda vocab: PCG(table(vocab, "ragged"), "draft"),
    "pcg_floor": lambda vocab: PCG(table(vocab, "ragged"), floor=0.1),
    "pcg_draft_floor": lambda vocab: PCG(table(vocab, "ragged"), "draft", 0.1),
    "coupling": lambda vocab: Coupling(table(vocab, "nearest")),
    "coupling_ragged": lambda vocab: Coupling(table(vocab, "ragged")),
    "coupling_floor": lambda vocab: Coupling(table(vocab, "ragged"), 0.1),
    "cascade": lambda vocab: Cascade("token", 0.5),
    "gsd": lambda vocab: GSD(table(vocab, "windows"), 3, 0.05),
    "lantern": lambda vocab: Lantern(ordered(vocab), 6 / vocab),
    "lantern_plus": lambda vocab: Lantern(ordered(vocab), 2.0),
    "block": lambda vocab: Block(),
    "pcg_block": lambda vocab: PCGBlock(table(vocab, "ragged")),
    "pcg_block_floor": lambda vocab: PCGBlock(table(vocab, "ragged"), 0.1),
}
LOSSLESS = ("exact", "block")
TOKENWISE = tuple(name for name in RULES if "block" not in name)
TOGETHER = 2_000  # drafted tokens at once: what is made of them stays in a core's cache, which halves the time
TABLES = ("identity", "windows", "nearest", "ragged", "clusters", "everything")


@cache
def table(vocab: int, shape: str) -> GroupTable:
    """Identity; overlapping windows; one group a token, not symmetric; random groups of many sizes, not one a token;
    disjoint clusters; one group."""
    members = {
        "identity": [[t] for t in range(vocab)],
        "windows": [[t for t in range(k - 2, k + 3) if 0 <= t < vocab] for k in range(vocab)],
        "nearest": [
            sorted({k, *torch.randperm(vocab, generator=_generator(k))[: k % 6].tolist()}) for k in range(vocab)
        ],
        "ragged": [
            sorted(torch.randperm(vocab, generator=_generator(k))[: 1 + k % 9].tolist()) for k in range(vocab // 2)
        ],
        "clusters": [list(range(k, min(k + 5, vocab))) for k in range(0, vocab, 5)],
        "everything": [list(range(vocab))],
    }
    return GroupTable.from_members(members[shape], vocab)


@cache
def ordered(vocab: int) -> GroupTable:
    """One group a token, of some sizes, in an order of nearness that is not symmetric; the last token is alone."""
    members, ranks = [], []
    for k in range(vocab):
        others = [
            (k + step) % (vocab - 1)
            for step in torch.randperm(vocab // 2, generator=_generator(k))[: 2 + k % 7].tolist()
        ]
        nearest = list(dict.fromkeys([k, *others])) if k < vocab - 1 else [k]
        members.append(sorted(nearest)), ranks.append([nearest.index(t) for t in sorted(nearest)])
    sizes = torch.tensor([len(group) for group in members])
    flat, order = (torch.tensor([t for group in each for t in group]) for each in (members, ranks))
    return GroupTable.from_csr(sizes, flat, vocab, ranks=order)


@cache
def pairs(vocab: int) -> dict[str, tuple[Float[Tensor, "vocab"], Float[Tensor, "vocab"]]]:
    """Draft and target by the name of what is special about them."""
    smooth = _softmax(vocab, 1, 1.0), _softmax(vocab, 2, 1.0)
    peaked = [x.clone() for x in (_softmax(vocab, 3, 0.5) * 0.03, _softmax(vocab, 4, 0.5) * 0.03)]
    peaked[0][3] += 0.97
    peaked[1][4] += 0.97
    even = torch.arange(vocab) % 2 == 0
    third = torch.arange(vocab) % 3 == 0
    return {
        "smooth": smooth,
        "near one-hot": (peaked[0], peaked[1]),
        "disjoint": (_normal(smooth[0] * even), _normal(smooth[1] * ~even)),
        "zeros": (_normal(smooth[0] * ~third), _normal(smooth[1] * even)),
        "identical": (smooth[0], smooth[0].clone()),
        "flat": (smooth[1], torch.full((vocab,), 1 / vocab)),
        "close": (smooth[0], _normal(smooth[0] * (0.9 + 0.2 * torch.rand(vocab, generator=_generator(5))))),
    }


def types_checked_once(batches: Iterable[Tensor]) -> Iterator[Tensor]:
    """``batches``; types are looked at in the first alone, as the others are like it and looking doubles the time."""
    try:
        for place, batch in enumerate(batches):
            config.update("jaxtyping_disable", place > 0)
            yield batch
    finally:
        config.update("jaxtyping_disable", False)


def simulate(
    rule: object,
    drafts: Float[Tensor, "gamma vocab"],
    targets: Float[Tensor, "gamma+1 vocab"],
    rows: int,
    seed: int = 0,
) -> tuple[Int[Tensor, "rows gamma"], Int[Tensor, "rows"], Int[Tensor, "rows"]]:
    """Drafted tokens, how many were accepted, and the token after them, of independent rows."""
    gamma, vocab = drafts.shape
    drafted, accepted, token = [], [], []
    for keys in types_checked_once(torch.arange(rows).split(TOGETHER // gamma)):
        randomness = Randomness(seed, keys)
        positions = keys % 50
        uniform = randomness.draws(positions, Purpose.TOKEN, gamma)
        blocks = draw(drafts.expand(len(keys), gamma, vocab), uniform)
        verdict = rule.verify(  # type: ignore[attr-defined]
            blocks, drafts.expand(len(keys), -1, -1), targets.expand(len(keys), -1, -1), positions, randomness
        )
        drafted.append(blocks), accepted.append(verdict.accepted), token.append(verdict.token)
    return torch.cat(drafted), torch.cat(accepted), torch.cat(token)


def emitted(
    drafted: Int[Tensor, "rows gamma"], accepted: Int[Tensor, "rows"], token: Int[Tensor, "rows"], index: int
) -> Int[Tensor, "kept"]:
    """The token at ``index`` of the block, of the rows that kept everything before it."""
    reached = accepted >= index
    return torch.where(accepted > index, drafted[:, min(index, drafted.shape[1] - 1)], token)[reached]


def chi_square(tokens: Int[Tensor, "rows"], law: Float[Tensor, "vocab"]) -> tuple[float, int]:
    """Pearson's statistic and its degrees of freedom; rare tokens are one cell. Impossible ones must not occur."""
    law = law.double()
    counts = torch.bincount(tokens, minlength=len(law)).double()
    assert counts[law == 0].sum() == 0, "a token of probability 0 was emitted"
    expected = law * len(tokens)
    common = expected >= 10
    observed = torch.cat([counts[common], counts[~common].sum().view(1)])
    expected = torch.cat([expected[common], expected[~common].sum().view(1)])
    if expected[-1] < 10:
        observed, expected = observed[:-1], expected[:-1]
    return ((observed - expected) ** 2 / expected).sum().item(), max(len(expected) - 1, 0)


def survival(statistic: float, freedom: int) -> float:
    """Probability of a chi-square at least this large."""
    if freedom == 0:
        return 1.0
    return torch.special.gammaincc(torch.tensor(freedom / 2.0).double(), torch.tensor(statistic / 2).double()).item()


def worst_token(tokens: Int[Tensor, "rows"], law: Float[Tensor, "vocab"]) -> float:
    """Largest relative error of a token above .005, in standard errors."""
    share = torch.bincount(tokens, minlength=len(law)).double() / len(tokens)
    law = law.double()
    error = (share - law).abs() / (law * (1 - law) / len(tokens)).sqrt().clamp(min=1e-12)
    return torch.where((law > 0.005) & (law < 1 - 1e-6), error, 0.0).amax().item()


def _softmax(vocab: int, seed: int, scale: float) -> Float[Tensor, "vocab"]:
    return (torch.randn(vocab, generator=_generator(seed)) * scale).softmax(0)


def _normal(weights: Float[Tensor, "vocab"]) -> Float[Tensor, "vocab"]:
    return weights / weights.sum()


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
