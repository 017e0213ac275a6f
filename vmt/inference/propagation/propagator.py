"""Masks of some frames become tracklets of the whole video, forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from cocoapi_hq.io import rle
from vmt.inference.mask_refiner import FrameRefiner, MaskRefiner, RefinedFrame
from vmt.inference.propagation.finder import Finder, NetworkFinder, Recogniser
from vmt.inference.propagation.plan import Plan
from vmt.inference.propagation.replay import Replay
from vmt.inference.propagation.tracker import LEARN, Tracker, apart
from vmt.inference.propagation.view import View, ViewMaker
from vmt.inference.refine_defaults import ACCEPT, SHIPPED

ByteArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
#: Frames after which the embedding of a tracklet is learned again, while it is followed.
LEARN_AGAIN = 10
#: From a frame, (H, W, 3) uint8 RGB, what is seen in it.
MakeView = Callable[[ByteArray], View]


@dataclass(frozen=True)
class PropagatedFrame:
    """What became of K of the N tracklets in one frame.

    Args:
        frame: index in the video.
        tracklets: (K,) int64, which, ascending.
        masks: (K, H, W) bool; without a pixel where the tracklet was not found.
        confidence: (K,) float in [0, 1], how well what was found agrees with itself and with the
            given masks, see ``docs/howto/propagate.md``; of given masks the refiner's, see
            ``RefinedFrame``.
        rejected: (K,) bool, the tracklet was not found; of given masks, the refined mask was thrown
            away, see ``RefinedFrame``.
        given: (K,) bool, the mask was given, and refined.
    """

    frame: int
    tracklets: npt.NDArray[np.int64]
    masks: BoolArray
    confidence: npt.NDArray[np.float64]
    rejected: BoolArray
    given: BoolArray


@dataclass(frozen=True)
class PropagatedClip:
    """``PropagatedFrame`` of N tracklets in all T frames.

    Args:
        masks: (N, T, H, W) bool.
        confidence: (N, T) float; 0 for tracklets of which no mask was given.
    """

    masks: BoolArray
    confidence: npt.NDArray[np.float64]


class MaskPropagator:
    """Finds in every frame of a video what given masks show in some.

    Forwards and backwards from each given mask to the frames that are nearest to it, one frame
    after the other: what flow makes of the mask before and what looks like the object in the
    memory are put together, and the refiner sharpens the result. Where they disagree the tracklet
    is lost, has no mask, and is looked for in the whole frame until it is found again; with a
    finder also among the objects that that one sees, by their embeddings.

    Memory does not grow with the length of the video, but for the run lengths of given masks.

    Args:
        refiner: sharpens the masks; None: they stay as they are found.
        make_view: what is seen in a frame, for instance a ``ViewMaker``.
        accept: confidence above which the refiner may change a pixel.
        finder: sees objects; None: lost tracklets are looked for without.

    Example:
        ``clip = vmt.MaskPropagator.from_pretrained().propagate(frames, {0: masks})``
    """

    def __init__(
        self,
        refiner: FrameRefiner | None,
        make_view: MakeView,
        accept: float = ACCEPT,
        finder: Finder | None = None,
    ) -> None:
        self._refiner = refiner
        self._make_view = make_view
        self._accept = accept
        self._finder = finder

    @classmethod
    def from_pretrained(
        cls, weights: str | Path = SHIPPED, device: str = "auto", accept: float = ACCEPT
    ) -> MaskPropagator:
        """With a refiner of the package, or of a training; see ``MaskRefiner.from_pretrained``.

        The detector of the package is the finder, where its weights are there.

        Raises:
            ConfigError: no config beside the weights, or it is not of a mask refiner.
            CheckpointError: the weights cannot be used.
        """
        refiner = MaskRefiner.from_pretrained(weights, device)
        return cls(refiner, ViewMaker.from_pretrained(), accept, NetworkFinder.from_package(device))

    def propagate(
        self, frames: npt.NDArray[np.uint8], given: Mapping[int, BoolArray]
    ) -> PropagatedClip:
        """``stream`` over a clip that is in memory.

        Args:
            frames: (T, H, W, 3) uint8 RGB.
            given: frame -> (N, H, W) bool, or (H, W) for one tracklet.

        Raises:
            ValueError: sizes or counts disagree, or there is no mask.
        """
        each = {t: mask[None] if mask.ndim == 2 else mask for t, mask in given.items()}
        count = max((len(masks) for masks in each.values()), default=0)
        masks = np.zeros((count, *frames.shape[:3]), np.bool_)
        confidence = np.zeros((count, len(frames)))
        for part in self.stream(frames, each):
            masks[part.tracklets, part.frame] = part.masks
            confidence[part.tracklets, part.frame] = part.confidence
        return PropagatedClip(masks, confidence)

    def stream(
        self, frames: Iterable[ByteArray], given: Mapping[int, BoolArray]
    ) -> Iterator[PropagatedFrame]:
        """Propagate masks through a video of any length.

        Args:
            frames: (H, W, 3) uint8 RGB each, all of one size; a ``FrameList``, an array and a list
                are read as they are, of other sources what is wanted backwards waits on disk.
            given: frame -> (N, H, W) bool; row n is the same tracklet throughout, without a pixel
                where it is not given. Values are asked for again and again.

        Yields:
            Results as they are made: in order of frames for what comes from earlier masks, and for
            the given ones; then backwards for what comes from later ones. Every tracklet of which a
            mask is given comes exactly once per frame; a frame may come twice, for other tracklets,
            or not at all where there is none.

        Raises:
            ValueError: sizes or counts disagree, or there is no mask.
        """
        run = _Run(given, self._refiner, self._make_view, self._accept, self._finder)
        replay = Replay(frames, run.plan.again)
        try:
            last = -1
            for last, frame in replay.forwards():
                yield from run.step(last, frame, forwards=True)
            if last < max(given):
                raise ValueError(
                    f"a mask is given of frame {max(given)}, but there are {last + 1} frames."
                )
            run.turn()
            for t, frame in replay.backwards():
                yield from run.step(t, frame, forwards=False)
        finally:
            replay.close()


class _Run:
    """One video: the trackers of all tracklets, one way and then the other.

    Args:
        given: see ``MaskPropagator.stream``; the rest see ``MaskPropagator``.

    Raises:
        ValueError: there is no mask, or they are of several sizes.
    """

    def __init__(
        self,
        given: Mapping[int, BoolArray],
        refiner: FrameRefiner | None,
        make_view: MakeView,
        accept: float,
        finder: Finder | None,
    ) -> None:
        shapes = {given[t].shape for t in given}
        if len(shapes) > 1 or any(len(shape) != 3 for shape in shapes):
            raise ValueError(
                f"given masks must be (tracklets, height, width), of one shape, not {shapes}."
            )
        self.plan = Plan(given)
        if self.plan.empty:
            raise ValueError("there is no mask to propagate; give one with at least one pixel.")
        self._given = given
        self._refiner = refiner
        self._make_view = make_view
        self._accept = accept
        self._recogniser = Recogniser(finder)
        self._trackers: dict[int, Tracker] = {}
        self._view: View | None = None
        #: (frame, tracklet) -> the given mask, refined, for the way back.
        self._starts: dict[tuple[int, int], rle.Rle] = {}

    def turn(self) -> None:
        """Forget what lies behind, to go the other way."""
        self._trackers.clear()
        self._recogniser.forget()
        self._view = None

    def step(self, t: int, frame: ByteArray, *, forwards: bool) -> Iterator[PropagatedFrame]:
        """What becomes of one frame; nothing, where no tracklet is looked for."""
        starting, going = self.plan.given(t), self.plan.along(t, forwards=forwards)
        if not starting and not going:
            self._view = None
            return
        view = self._make_view(frame)
        given = self._start(t, view, starting, forwards=forwards)
        found = self._follow(t, view, going)
        self._view = view
        parts = [part for part in (given if forwards else None, found) if part is not None]
        if parts:
            yield _joined(parts)

    def _start(
        self, t: int, view: View, starting: list[int], *, forwards: bool
    ) -> PropagatedFrame | None:
        """Trackers begin, or begin anew, at given masks; refined on the first way."""
        if not starting:
            return None
        part = None
        if forwards:
            masks = self._given[t]
            if view.frame.shape[:2] != masks.shape[1:]:
                raise ValueError(
                    f"frame {t} is {view.frame.shape[1]}x{view.frame.shape[0]}, its masks are "
                    f"{masks.shape[2]}x{masks.shape[1]}; give masks of the frames' size."
                )
            refined = self._refined(view.frame, masks[starting])
            part = PropagatedFrame(
                t,
                np.array(starting),
                refined.masks,
                refined.confidence,
                refined.rejected,
                np.ones(len(starting), np.bool_),
            )
            for n, mask in zip(starting, refined.masks, strict=True):
                self._starts[t, n] = rle.encode(mask)
        for n in starting:
            tracker = self._trackers.setdefault(n, Tracker())
            mask = rle.decode(self._starts[t, n])
            tracker.start(view, mask)
            self._recogniser.learn(t, view.frame, n, mask)
        return part

    def _follow(self, t: int, view: View, going: list[int]) -> PropagatedFrame | None:
        """Where the trackers find their tracklets."""
        if not going:
            return None
        assert self._view is not None, "trackers begin at a frame before"
        flow = view.flow_to(self._view)
        guesses = [self._trackers[n].look(view, flow, self._recognised(t, view, n)) for n in going]
        masks = apart([view.enlarge(guess.probability) for guess in guesses])
        refined = self._refined(view.frame, masks)
        found = [
            self._trackers[n].settle(view, guess, mask)
            for n, guess, mask in zip(going, guesses, refined.masks, strict=True)
        ]
        for n, (mask, confidence) in zip(going, found, strict=True):
            if t % LEARN_AGAIN == 0 and confidence >= LEARN and mask.any():
                self._recogniser.learn(t, view.frame, n, mask)
        return PropagatedFrame(
            t,
            np.array(going),
            np.stack([mask for mask, _ in found]),
            np.array([confidence for _, confidence in found]),
            np.array([not mask.any() for mask, _ in found]),
            np.zeros(len(going), np.bool_),
        )

    def _recognised(self, t: int, view: View, n: int) -> FloatArray | None:
        """(h, w), where the finder sees a tracklet that was lost."""
        if not self._trackers[n].lost:
            return None
        mask = self._recogniser.find(t, view.frame, n)
        return None if mask is None else view.reduce(mask)

    def _refined(self, frame: ByteArray, masks: BoolArray) -> RefinedFrame:
        if self._refiner is None:
            none = np.zeros(len(masks), np.int64)
            sure = np.full(masks.shape[1:], 255, np.uint8)
            return RefinedFrame(masks, np.ones(len(masks)), none, none.astype(np.bool_), sure)
        return next(self._refiner.stream([frame], [masks], accept=self._accept, window=1))


def _joined(parts: list[PropagatedFrame]) -> PropagatedFrame:
    """One result for all tracklets of a frame."""
    order = np.argsort(np.concatenate([part.tracklets for part in parts]))
    names = [field.name for field in fields(PropagatedFrame)][1:]
    columns = [np.concatenate([getattr(part, name) for part in parts])[order] for name in names]
    return PropagatedFrame(parts[0].frame, *columns)
