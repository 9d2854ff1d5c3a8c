"""Disjoint groups: k-means clusters of the embedding rows (scikit-learn's MiniBatchKMeans, Euclidean)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from jaxtyping import Bool, Float
from sklearn.cluster import MiniBatchKMeans
from torch import Tensor

from pcg.constraints import FROM_1, checked
from pcg.groups.similarity import groupable_ids
from pcg.groups.table import GroupTable


@checked
@dataclass(frozen=True)
class KMeans:
    """Clusters of groupable tokens; the others are singletons. Empty clusters are left out.

    Rows are not centred: a mean that all rows share does not change Euclidean distances.
    """

    clusters: Annotated[int, FROM_1]
    seed: int = 0

    def build(self, embeddings: Float[Tensor, "vocab dim"], groupable: Bool[Tensor, "vocab"] | None) -> GroupTable:
        """
        Raises:
            ValueError: the mask does not fit, or there are fewer groupable tokens than clusters.
        """
        ids = groupable_ids(embeddings, groupable)
        if self.clusters > len(ids):
            raise ValueError(
                f"kmeans: clusters={self.clusters}, but only {len(ids)} tokens are groupable; lower clusters"
            )
        rows = embeddings[ids].float().cpu().numpy()
        kmeans = MiniBatchKMeans(self.clusters, random_state=self.seed, n_init=3, batch_size=4096)
        cluster = torch.arange(self.clusters, self.clusters + len(embeddings))  # a singleton for each token ...
        cluster[ids.cpu()] = torch.from_numpy(kmeans.fit_predict(rows)).long()  # ... but the clustered ones
        sizes = torch.bincount(cluster)
        members = torch.sort(cluster, stable=True).indices
        table = GroupTable.from_csr(sizes[sizes > 0], members, len(embeddings))
        table.warn(f"{self.clusters} k-means clusters")
        return table
