"""What can be chosen about the quadtree refiner."""

from __future__ import annotations

from dataclasses import dataclass

from fvcore.common.config import CfgNode

from vmt.modeling.refiners.quadtree.detector import DETECTORS
from vmt.modeling.refiners.quadtree.regions import REGION_KINDS
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class QuadtreeOptions:
    """Sizes, attention, detector and budgets; the defaults are the paper's.

    Args:
        embed_dim: width of node features and of the refinement transformer.
        num_heads: of its attentions.
        num_layers: pairs of node attention and instance guidance.
        ffn_dim: of the node attention layers.
        dropout: in training.
        grouped: nodes of all frames of a tracklet form one sequence (quadtree sequence grouping);
            False: each frame alone, with neither attention nor a time code across frames.
        guided: with instance guidance layers.
        window: nodes attend within squares of so many stride-8 cells, over all frames; those of
            every second layer are shifted by half. 0: to all nodes of the tracklet.
        context: see ``NodeEncoder``.
        reach_px: attention falls with the distance of nodes from each other, measured from the
            centre of the object in their frames, see ``NearAttention``; 0: it does not.
        shared_head: see ``PixelDecoder``.
        offset_unit_px: pixels that count as 1 in the offsets to the instance's centre which
            detector and decoder read; 1 as in the released code.
        train_maps: let gradients reach the backbone's maps; the released code does not.
        detector: "video_query", "frame_query" or "fcn": what makes the detector's weights.
        region: what the detector learns, see ``region_levels``.
        max_points: most nodes per tracklet and ``BUDGET_FRAMES`` frames in evaluation, highest
            scores first; 0: all.
        train_frame_points: most nodes per tracklet, level and frame in training, at random; 0: all.
        train_points: most nodes per tracklet in training, at random; 0: all.
        train_tracklets: most tracklets per clip in training, at random; 0: all.

    Raises:
        ConfigError: a value that the key of that name does not allow.
    """

    embed_dim: int = 64
    num_heads: int = 4
    num_layers: int = 3
    ffn_dim: int = 2048
    dropout: float = 0.1
    grouped: bool = True
    guided: bool = True
    window: int = 0
    context: int = 1
    reach_px: float = 0.0
    shared_head: bool = False
    offset_unit_px: float = 1.0
    train_maps: bool = False
    detector: str = "video_query"
    region: str = "incoherent"
    max_points: int = 60000
    train_frame_points: int = 300
    train_points: int = 4000
    train_tracklets: int = 10

    def __post_init__(self) -> None:
        for name, allowed in (("detector", DETECTORS), ("region", REGION_KINDS)):
            if getattr(self, name) not in allowed:
                self._refuse(name, f"one of {', '.join(allowed)}")
        for name in ("window", "reach_px"):
            if getattr(self, name) < 0:
                self._refuse(name, "0 or more")
        if self.context < 1 or self.context % 2 == 0:
            self._refuse("context", "1, 3, 5 or another odd number")

    def _refuse(self, name: str, allowed: str) -> None:
        raise ConfigError(
            f"MODEL.REFINER.{name.upper()} must be {allowed}, not {getattr(self, name)!r}."
        )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> QuadtreeOptions:
        """From ``MODEL.REFINER``."""
        node = cfg.MODEL.REFINER
        own = {
            name: node[name.upper()] for name in cls.__dataclass_fields__ if name.upper() in node
        }
        return cls(**own, grouped=node.QSG, guided=node.IGL)
