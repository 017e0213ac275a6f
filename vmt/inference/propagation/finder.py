"""Lost tracklets are recognised among the objects that a network sees, by their embeddings.

The network is one for frames whose embeddings tell objects apart, as the quasi-dense ones of
QDTrack do (arXiv:2006.06664, section 3.3); how they serve a tracklet with a given mask is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from vmt.config.node import load_config
from vmt.inference.load import load_segmenter
from vmt.inference.package_detector import ships
from vmt.inference.postprocess import masks_at_video_size
from vmt.inference.predictor import PredictorOptions, resize_frame
from vmt.inference.pretrained import find_detector
from vmt.modeling.video_model import FrameModel
from vmt.utils.device import to_device
from vmt.utils.errors import ConfigError

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]

#: IoU from which an object that is seen is the tracklet, and up to which it is another thing.
SAME, OTHER = 0.5, 0.1
#: Cosine of embeddings from which they may be of one object.
SIMILAR = 0.5
#: Weight of a new embedding of the tracklet; that of QDTrack's memory.
MOMENTUM = 0.8
#: Other things that are remembered.
OTHERS = 32
#: Objects below this score are not looked at: less than starts a track, since the question is not
#: whether it is an object but whether it is this one.
SCORE = 0.1


@dataclass(frozen=True, eq=False)
class Candidates:
    """K objects of a frame.

    Args:
        masks: (K, H, W) bool, at the size of the frame.
        embeddings: (K, C) fp32 on the CPU, each of length 1.
    """

    masks: BoolArray
    embeddings: Tensor


class Finder(Protocol):
    """Sees objects."""

    def __call__(self, frame: ByteArray) -> Candidates:
        """The objects of a frame, (H, W, 3) uint8 RGB."""
        ...


class Identity:
    """What the embeddings of one tracklet are, and of what was beside it."""

    def __init__(self) -> None:
        self._own: Tensor | None = None  # (C,)
        self._others: list[Tensor] = []  # (C,) each, the latest last

    def learn(self, candidates: Candidates, mask: BoolArray) -> None:
        """Learn from a frame in which the tracklet is known.

        Args:
            candidates: of the frame.
            mask: (H, W), the tracklet.
        """
        overlaps = [overlap(mask, other) for other in candidates.masks]
        rest = [k for k, value in enumerate(overlaps) if value <= OTHER]
        self._others = [*self._others, *candidates.embeddings[rest]][-OTHERS:]
        if max(overlaps, default=0.0) < SAME:
            return
        new = candidates.embeddings[int(np.argmax(overlaps))]
        if self._own is not None:
            new = F.normalize((1 - MOMENTUM) * self._own + MOMENTUM * new, dim=0)
        self._own = new

    def find(self, candidates: Candidates) -> BoolArray | None:
        """The mask, (H, W), of the object that is the tracklet; None where none is.

        It resembles the tracklet most, by ``SIMILAR`` at least, and more than any other thing.
        """
        if self._own is None or not len(candidates.masks):
            return None
        cosines = candidates.embeddings @ self._own
        best = int(cosines.argmax())
        if cosines[best] < SIMILAR:
            return None
        if self._others:
            beside = torch.stack(self._others) @ candidates.embeddings[best]
            if beside.max() >= cosines[best]:
                return None
        found: BoolArray = candidates.masks[best]
        return found


class Recogniser:
    """The tracklets of a video that goes one way, and a finder that is asked once per frame.

    Args:
        finder: None: nothing is recognised.
    """

    def __init__(self, finder: Finder | None) -> None:
        self._finder = finder
        self._seen: tuple[int, Candidates] | None = None  # index and objects of a frame
        self._identities: dict[int, Identity] = {}

    def forget(self) -> None:
        """Begin anew, to go the other way."""
        self._identities.clear()

    def learn(self, t: int, frame: ByteArray, tracklet: int, mask: BoolArray) -> None:
        """Learn what a tracklet looks like: ``mask``, (H, W), in frame ``t``."""
        if self._finder is not None:
            identity = self._identities.setdefault(tracklet, Identity())
            identity.learn(self._look(self._finder, t, frame), mask)

    def find(self, t: int, frame: ByteArray, tracklet: int) -> BoolArray | None:
        """The mask, (H, W), of a tracklet in frame ``t``; None where it is not recognised."""
        identity = self._identities.get(tracklet)
        if self._finder is None or identity is None:
            return None
        return identity.find(self._look(self._finder, t, frame))

    def _look(self, finder: Finder, t: int, frame: ByteArray) -> Candidates:
        if self._seen is None or self._seen[0] != t:
            self._seen = t, finder(frame)
        return self._seen[1]


class NetworkFinder:
    """The objects that a network for frames sees, whatever their class.

    Args:
        model: in evaluation mode; its embeddings tell objects apart.
        options: sizes of the frames that it reads.
    """

    def __init__(self, model: FrameModel, options: PredictorOptions) -> None:
        self._model = model
        self._options = options

    @classmethod
    def from_package(cls, device: str | None = None) -> NetworkFinder | None:
        """With the detector of the package; None where its weights are missing."""
        return cls.load(None, None, device) if ships() else None

    @classmethod
    def load(
        cls,
        config: str | None,
        weights: str | None,
        device: str | None = None,
        overrides: Sequence[str] = (),
    ) -> NetworkFinder:
        """With any network for frames; arguments as of ``load_segmenter``, None: the package's.

        Raises:
            ConfigError: the network sees clips.
        """
        network = find_detector(config, weights)
        model = load_segmenter(network.config, network.weights, overrides, device)
        if not isinstance(model, FrameModel):
            raise ConfigError(
                f"{network.config}: sees clips; objects are recognised by a network for frames."
            )
        return cls(model, PredictorOptions.from_config(load_config(network.config, overrides)))

    @torch.inference_mode()
    def __call__(self, frame: ByteArray) -> Candidates:
        """See ``Finder``."""
        small = resize_frame(frame, self._options.min_size, self._options.max_size)
        pixels = torch.from_numpy(small).permute(2, 0, 1)[None]
        (seen,) = self._model.segment_frames(to_device(pixels, self._model.device))
        rows = (seen.class_probs().amax(1) >= SCORE).nonzero()[:, 0].cpu()
        crops = masks_at_video_size(
            seen.masks_to_draw(rows),
            seen.mask_stride,
            seen.input_size,
            (frame.shape[0], frame.shape[1]),
            crop_to_input=self._options.crop_to_input,
            upsampling=seen.upsampling,
        )
        masks = np.zeros((len(crops), *frame.shape[:2]), np.bool_)
        for mask, crop in zip(masks, crops, strict=True):
            h, w = crop.bits.shape
            mask[crop.y : crop.y + h, crop.x : crop.x + w] = crop.bits
        embeddings = seen.embeddings.float().cpu()[rows]
        return Candidates(masks, F.normalize(embeddings, dim=1))


def overlap(a: BoolArray, b: BoolArray) -> float:
    """IoU of two masks, 0 of two empty ones."""
    return float(np.count_nonzero(a & b)) / max(int(np.count_nonzero(a | b)), 1)
