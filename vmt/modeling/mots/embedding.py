"""From the features of regions to embeddings, and to the queries of a refiner."""

from __future__ import annotations

from torch import Tensor, nn

from vmt.modeling.mots.options import NORM_GROUPS


class EmbeddingHead(nn.Sequential):
    """Features of regions, (N, dim, cells, cells), -> embeddings, (N, embed_dim); N may be 0.

    QDTrack's "4conv-1fc" head (arXiv:2006.06664, section 4); the last linear layer, which its code
    starts at a deviation of 0.01, keeps first embeddings short.

    Args:
        dim: channels of the regions' features.
        cells: sides of the regions in cells.
        convs: convolutions.
        fc_dim: width of the fully connected layer.
        embed_dim: C_e.
    """

    def __init__(self, dim: int, cells: int, convs: int, fc_dim: int, embed_dim: int) -> None:
        layers: list[nn.Module] = []
        for _ in range(convs):
            conv = nn.Conv2d(dim, dim, 3, padding=1, bias=False)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers += [conv, nn.GroupNorm(NORM_GROUPS, dim), nn.ReLU()]
        hidden, last = nn.Linear(dim * cells**2, fc_dim), nn.Linear(fc_dim, embed_dim)
        nn.init.xavier_uniform_(hidden.weight)
        nn.init.normal_(last.weight, std=0.01)
        nn.init.zeros_(hidden.bias)
        nn.init.zeros_(last.bias)
        super().__init__(*layers, nn.Flatten(), hidden, nn.ReLU(), last)


class RegionQuery(nn.Module):
    """Features of regions -> instance queries of a refiner, by their mean over the region.

    Stands in for the queries of VMT's detector (arXiv:2207.14012, section 3.1), which a two-stage
    network has not (ours). A tracklet's query is the mean over its frames.

    Args:
        dim: channels of the features and of the query.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(dim, dim), nn.ReLU(), nn.Linear(dim, dim), nn.LayerNorm(dim)
        )

    def forward(self, regions: Tensor) -> Tensor:
        """(R, dim, cells, cells) -> (R, dim)."""
        query: Tensor = self.mlp(regions.mean((2, 3)))
        return query
