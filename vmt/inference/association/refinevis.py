"""Tracks whose masks and scores are refined over time, as RefineVIS has it.

Source: RefineVIS, arXiv:2306.04774, sections 3.2 and 3.3. Association is that of IDOL and knows
nothing of the refined embeddings; docs/methods/refinevis.md says what the paper leaves open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from fvcore.common.config import CfgNode
from torch import Tensor

from vmt.inference.association.base import FrameLogits
from vmt.inference.association.bisoftmax import BisoftmaxAssociation, BisoftmaxOptions
from vmt.inference.association.refinement import (
    OfflineRefinement,
    OnlineRefinement,
    Refined,
    Refinement,
)
from vmt.inference.association.registry import ASSOCIATIONS
from vmt.inference.association.tracker import Step
from vmt.modeling.registry import register
from vmt.modeling.video_model import FrameModel, FrameOutputs, RefiningModel, class_probs
from vmt.utils.device import index_on, to_host
from vmt.utils.errors import ConfigError

if TYPE_CHECKING:
    from vmt.inference.predictor import PredictorOptions

MODES = {"online": OnlineRefinement, "offline": OfflineRefinement}
SCORE_FRAMES = ("matched", "alive")


@dataclass(frozen=True)
class RefineVISOptions:
    """How tracks are refined.

    Args:
        mode: "online": by the frames before; "offline": by those of the same clip.
        window: W, frames that a frame reads, itself included; 0: none, and tracks are those of
            ``bisoftmax``; -1: the model's.
        recover_score: a frame in which a track was missed gets its mask if the probability of its
            best class there is higher than this.
        score_frames: a track's probabilities are those of the frames in which it was "matched", or
            of all in which it was "alive".

    Raises:
        ConfigError: a word that is none of its values, or a window below -1.
    """

    mode: str = "online"
    window: int = -1
    recover_score: float = 0.1
    score_frames: str = "matched"

    def __post_init__(self) -> None:
        for key, values in (("MODE", tuple(MODES)), ("SCORE_FRAMES", SCORE_FRAMES)):
            if (value := getattr(self, key.lower())) not in values:
                raise ConfigError(
                    f"TEST.REFINEVIS.{key} is {value!r}; choose {' or '.join(values)}."
                )
        if self.window < -1:
            raise ConfigError(
                f"TEST.REFINEVIS.WINDOW is {self.window}; choose a number of frames, 0 for none or "
                "-1 for the model's."
            )

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RefineVISOptions:
        """Read ``TEST.REFINEVIS``."""
        node = cfg.TEST.REFINEVIS
        return cls(node.MODE, node.WINDOW, node.RECOVER_SCORE, node.SCORE_FRAMES)


@register(ASSOCIATIONS, "refinevis")
class RefineVISAssociation(BisoftmaxAssociation):
    """Associates by the embeddings of frames, and cuts out by refined ones.

    Args:
        options: of the association.
        refinement: of the embeddings.
        refinevis: see ``RefineVISOptions``; mode and window are those of ``refinement``.
    """

    def __init__(
        self, options: BisoftmaxOptions, refinement: Refinement, refinevis: RefineVISOptions
    ) -> None:
        super().__init__(options)
        self.clip = refinement.clip
        self._refinement = refinement
        model = refinement.model
        self._class_head = model.in_precision(model.class_head)
        self._mask_head = model.in_precision(model.mask_head)
        self._recover_score = refinevis.recover_score
        self._score_missed = refinevis.score_frames == "alive"

    @classmethod
    def from_options(cls, options: PredictorOptions, model: FrameModel) -> BisoftmaxAssociation:
        """See ``registry``; plain ``bisoftmax`` where nothing is refined.

        Raises:
            ConfigError: the network has nothing that refines.
        """
        asked = options.refinevis
        trained = model.window if isinstance(model, RefiningModel) else 0
        window = trained if asked.window < 0 else asked.window
        if window == 0:
            return BisoftmaxAssociation(options.bisoftmax)
        if not isinstance(model, RefiningModel) or trained == 0:
            raise ConfigError(
                f"{type(model).__name__} has nothing that refines over {window} frames; choose "
                "TEST.REFINEVIS.WINDOW 0, or a network that was trained with "
                "MODEL.REFINEVIS.WINDOW above 0."
            )
        return cls(options.bisoftmax, MODES[asked.mode](model, window), asked)

    @torch.inference_mode()
    def _associate(self, frames: Sequence[FrameOutputs]) -> list[FrameLogits]:
        """See ``BisoftmaxAssociation``; all frames are associated before the first is refined."""
        steps = self._tracker.steps(frames)
        refined = self._refinement.refine(steps, frames)
        logits = to_host([self._class_head(objects.embeds) for objects in refined])
        return [self._record(*four) for four in zip(steps, frames, refined, logits, strict=True)]

    def _record(
        self, step: Step, frame: FrameOutputs, refined: Refined, logits: Tensor
    ) -> FrameLogits:
        probs = class_probs(logits, no_object=frame.no_object)
        of = dict(zip(refined.tracklets, probs, strict=True))
        missed = [tracklet for tracklet in of if tracklet not in step.query]
        scored = [*step.query, *(missed if self._score_missed else ())]
        self._tracks.update(step, {tracklet: of[tracklet] for tracklet in scored})
        recovered = {i for i in missed if i in self._tracks and self._recovers(of[i])}
        rows = [row for row, i in enumerate(refined.tracklets) if i in step.query or i in recovered]
        assert frame.pixel is not None, "masks are cut out of features"
        index = index_on(refined.embeds.device, rows)
        refs = None if refined.refs is None else refined.refs[index]
        embeds = refined.embeds[index]
        masks = self._mask_head(embeds, frame.pixel, refs)
        shown = [refined.tracklets[row] for row in rows]
        return self._tracks.record(step.index, shown, masks, embeds, frame)

    def _recovers(self, probs: Tensor) -> bool:
        return float(probs.max()) > self._recover_score

    def state(self) -> dict[str, Any]:
        """See ``ResumableAssociation``."""
        return {**super().state(), "refinement": self._refinement.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See ``ResumableAssociation``."""
        super().load_state(state)
        self._refinement.load_state(state["refinement"])
