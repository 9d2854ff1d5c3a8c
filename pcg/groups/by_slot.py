"""Groups for models that say several tokens a frame, each slot of it in codes of its own (Orpheus: 7 times 4,096).

Token t belongs to slot ``t // codes``. Tokens of two slots never sound alike, since they are refinements of different
depth or of different moments: the table is block-diagonal, and no similarity between two slots is computed.
"""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from pcg.groups.table import GroupBuilder, GroupTable


@dataclass(frozen=True)
class BySlot:
    """Groups of ``builder`` within each slot; end-of-speech, the token after the last slot, stays alone.

    Attributes:
        builder: builds the groups of one slot; counts that it takes (``k``, ``clusters``) are per slot.
        slots: how many there are.
    """

    builder: GroupBuilder
    slots: int

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: the tokens besides end-of-speech cannot be shared out evenly, or the builder refuses a slot.
        """
        vocab = len(embeddings)
        codes, rest = divmod(vocab - 1, self.slots)
        if rest:
            raise ValueError(f"groups by slot: {vocab - 1} tokens cannot be shared out among {self.slots} slots")
        tables = []
        for start in range(0, vocab - 1, codes):
            of_slot = slice(start, start + codes)
            tables.append(self.builder.build(embeddings[of_slot], None if groupable is None else groupable[of_slot]))
        return GroupTable.side_by_side([*tables, GroupTable.from_members([[0]], 1)])
