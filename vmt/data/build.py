"""Loaders from the config: endless training batches, and the videos of an evaluation.

Sample number n of a training run is a pure function of ``ENGINE.SEED`` and n. Step s of W
processes uses the samples s * B to (s + 1) * B - 1, B = ``SOLVER.CLIPS_PER_BATCH``; rank r takes
the r-th of W equal parts. So neither workers, nor processes, nor a restart change what is seen.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch.utils.data import DataLoader, Dataset

from vmt.config.compat import behaviour
from vmt.data import order as orders
from vmt.data.catalog import load_dataset
from vmt.data.clip_sampler import build_sampler
from vmt.data.datasets.categories import coco_map
from vmt.data.degrade import Coarseness
from vmt.data.labels import label_table
from vmt.data.mapper import ClipMapper, Guest
from vmt.data.order import SampleOrder
from vmt.data.pseudo_clip import build_pseudo_clip
from vmt.data.records import VideoDataset, VideoRecord
from vmt.data.transforms import build_augmentation
from vmt.data.workers import iterate
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import AnnotationError, ConfigError, VideoError, VmtError

logger = logging.getLogger(__name__)

__all__ = ["LoaderError", "TrainLoader", "VideoRecord", "build_train_loader"]
__all__ += ["steps_per_epoch"]

Sample = dict[str, Any]

#: Draws that must fail for one cause, before any clip could be drawn, to end a training at once.
FIRST_DRAWS = 8
#: Draws for one place in a batch before training ends with an error.
MAX_REDRAWS = 100
#: Batches that each worker prepares ahead, and seconds without one after which training ends.
PREFETCH, TIMEOUT_S = 2, 300
#: What differs between messages of one cause: paths and numbers.
_PLACES = re.compile(r"\S*[/\\]\S*|\d+")


class LoaderError(VmtError, RuntimeError):
    """The processes that prepare clips died or fell silent, or no clip could be drawn."""


@dataclass(frozen=True)
class _Drawn:
    """What a worker hands over: the sample or the reason why there is none, and what it skipped."""

    sample: Sample | None
    error: Exception | None
    skipped: tuple[str, ...]

    def pin_memory(self) -> _Drawn:
        """The same in page-locked memory; torch's loader calls this in a thread of its own."""
        if self.sample is None:
            return self
        targets = self.sample["targets"]
        pinned = {
            name: getattr(targets, name).pin_memory()
            for name in ("labels", "boxes_cxcywh", "masks", "valid")
        }
        tensors = {k: v.pin_memory() for k, v in self.sample.items() if isinstance(v, torch.Tensor)}
        sample = {**self.sample, **tensors, "targets": replace(targets, **pinned)}
        return replace(self, sample=sample)


class TrainClips(Dataset[_Drawn]):
    """Sample number -> sample, over several data sets.

    Args:
        sets: the data sets.
        label_of: per set, category id -> label.
        order: which key frame a sample has.
        mapper: key frame -> sample.
        seed: of everything drawn within a sample.
        skip_errors: draw another clip when a file is damaged; otherwise that is the end.
        paste_prob: how often objects of another image are pasted into an image.
    """

    def __init__(
        self,
        sets: Sequence[VideoDataset],
        label_of: Sequence[dict[int, int]],
        order: SampleOrder,
        mapper: ClipMapper,
        *,
        seed: int,
        skip_errors: bool,
        paste_prob: float = 0.0,
    ) -> None:
        self.sets = list(sets)
        self.label_of = list(label_of)
        self.order = order
        self.mapper = mapper
        self.seed = seed
        self.skip_errors = skip_errors
        self.paste_prob = paste_prob
        self._ends = [np.cumsum(np.asarray(data.num_frames(), np.int64)) for data in self.sets]
        self._succeeded = False

    def __getitem__(self, sample: int) -> _Drawn:
        which, key = self.order(sample)
        skipped: list[str] = []
        for attempt in range(MAX_REDRAWS):
            rng = np.random.default_rng([self.seed, orders.SAMPLE, sample, attempt])
            if attempt:
                key = int(rng.integers(self._ends[which][-1]))
            record, frame = self._at(which, key)
            guest = self._guest(rng) if record.still and self.paste_prob else None
            try:
                drawn = self.mapper(record, frame, self.label_of[which], rng, guest)
            except (VideoError, AnnotationError) as error:
                if not self.skip_errors:
                    return _Drawn(None, error, ())
                skipped.append(str(error))
                if self._hopeless(skipped):
                    break
                continue
            if drawn is not None:
                self._succeeded = True
                return _Drawn(drawn, None, tuple(skipped))
        return _Drawn(None, LoaderError(self._explain(which, attempt + 1, skipped)), ())

    def _at(self, which: int, key: int) -> tuple[VideoRecord, int]:
        """Record and frame of a key frame of a set."""
        video = int(np.searchsorted(self._ends[which], key, side="right"))
        first = int(self._ends[which][video - 1]) if video else 0
        return self.sets[which][video], key - first

    def _guest(self, rng: np.random.Generator) -> Guest | None:
        """An image of any set, whose objects are pasted; None where nothing is."""
        if rng.random() >= self.paste_prob:
            return None
        which = int(rng.integers(len(self.sets)))
        record, _ = self._at(which, int(rng.integers(self._ends[which][-1])))
        return Guest(record, self.label_of[which]) if record.still else None

    def _hopeless(self, skipped: Sequence[str]) -> bool:
        """Whether nothing could be read so far, for one cause: then there is no point to go on."""
        return (
            not self._succeeded
            and len(skipped) == FIRST_DRAWS
            and len({_PLACES.sub("", text) for text in skipped}) == 1
        )

    def _explain(self, which: int, draws: int, skipped: Sequence[str]) -> str:
        """The cause first, then what it led to."""
        name = self.sets[which].name
        if len(skipped) == draws:
            return (
                f"{skipped[0]} So it went with each of {draws} clips drawn from {name}; vmt "
                "check-annotations lists what is wrong with it."
            )
        damaged = f" {len(skipped)} files were damaged, the first: {skipped[0]}" if skipped else ""
        return (
            f"{name}: {draws} clips in a row could not be used: no object "
            "visible, or files damaged. Check the data set with vmt check-annotations, and the "
            f"crop sizes of INPUT.{damaged}"
        )


class _Numbers:
    """Endless batches of sample numbers for one rank."""

    def __init__(self, batch: int, rank: int, world_size: int, start_step: int) -> None:
        self.batch, self.rank, self.start_step = batch, rank, start_step
        self.part = batch // world_size

    def __iter__(self) -> Iterator[list[int]]:
        first = self.start_step * self.batch + self.rank * self.part
        while True:
            yield list(range(first, first + self.part))
            first += self.batch


class TrainLoader:
    """Endless batches of one process; each ``iter`` starts again at ``start_step``.

    Attributes:
        steps_per_epoch: steps in which every key frame is seen once, over all processes.
        skipped: how often each unreadable thing was skipped, by message, so far.
    """

    def __init__(
        self,
        clips: TrainClips,
        *,
        batch: int,
        rank: int,
        world_size: int,
        start_step: int,
        num_workers: int,
        pin_memory: bool = False,
    ) -> None:
        self.clips = clips
        self.start_step = start_step
        self.num_workers = num_workers
        self.steps_per_epoch = max(1, clips.order.epoch_size // batch)
        self.skipped: Counter[str] = Counter()
        self._numbers = _Numbers(batch, rank, world_size, start_step)
        self._pin_memory = pin_memory

    def __iter__(self) -> Iterator[list[Sample]]:
        """Batches from ``start_step`` on.

        Raises:
            LoaderError: a worker died or gave nothing for ``TIMEOUT_S`` seconds, or no
                clip of a set can be used.
            VideoError: a frame cannot be read, under ``DATALOADER.ON_ERROR fail``.
            AnnotationError: masks are damaged, under ``DATALOADER.ON_ERROR fail``.
        """
        batches = self._batches()
        try:
            for drawn in batches:
                yield [self._unpack(entry) for entry in drawn]
        except RuntimeError as error:
            if not str(error).startswith("DataLoader "):  # not about the processes themselves
                raise
            raise LoaderError(self._explain(error)) from error
        finally:
            batches.close()  # ends the workers now, not when the traceback is forgotten

    def _batches(self) -> Generator[list[_Drawn], None, None]:
        if not self.num_workers:
            for numbers in self._numbers:
                yield [self.clips[n] for n in numbers]
            return
        loader: DataLoader[_Drawn] = DataLoader(
            self.clips,
            batch_sampler=self._numbers,
            num_workers=self.num_workers,
            collate_fn=list,
            prefetch_factor=PREFETCH,
            timeout=TIMEOUT_S,
            pin_memory=self._pin_memory,
            worker_init_fn=_init_worker,
        )
        yield from iterate(loader)

    def _unpack(self, entry: _Drawn) -> Sample:
        for message in entry.skipped:
            self.skipped[message] += 1
            if self.skipped[message] == 1:
                logger.warning("skipped (%d so far): %s", self.skipped.total(), message)
        if entry.error is not None:
            raise entry.error
        assert entry.sample is not None, "a worker handed over neither sample nor error"
        return entry.sample

    def _explain(self, error: RuntimeError) -> str:
        text = " ".join(str(error).split())
        if "timed out" in text:
            return (
                f"no batch from {self.num_workers} workers for {TIMEOUT_S:g} seconds: "
                "the file system hangs or the machine is overloaded. Fewer DATALOADER.NUM_WORKERS "
                "or local data may help; 0 workers show where it stands."
            )
        return (
            f"a worker that prepares clips died ({text}). Killed or Bus error: memory, or shared "
            "memory in a container (--shm-size), is short; set DATALOADER.NUM_WORKERS lower."
        )


def _init_worker(worker: int) -> None:
    del worker
    cv2.setNumThreads(0)
    torch.set_num_threads(1)


def _check_loader(cfg: CfgNode, rank: int, world_size: int) -> int:
    """The global batch; ConfigError when a value cannot work."""
    batch = int(cfg.SOLVER.CLIPS_PER_BATCH)
    if batch < 1 or batch % world_size:
        raise ConfigError(
            f"SOLVER.CLIPS_PER_BATCH is {batch}, the clips of all processes together; give a "
            f"positive multiple of the {world_size} processes."
        )
    if not 0 <= rank < world_size:
        raise ConfigError(f"rank {rank} does not exist among {world_size} processes.")
    node = cfg.DATALOADER
    if node.ON_ERROR not in ("skip", "fail"):
        raise ConfigError(f"DATALOADER.ON_ERROR is {node.ON_ERROR!r}; choose skip or fail.")
    if node.NUM_WORKERS < 0:
        raise ConfigError(f"DATALOADER.NUM_WORKERS is {node.NUM_WORKERS}; give at least 0.")
    if cfg.INPUT.CLIP_FRAMES < 1:
        raise ConfigError(f"INPUT.CLIP_FRAMES is {cfg.INPUT.CLIP_FRAMES}; give at least 1.")
    return batch


def build_train_clips(cfg: CfgNode, label_space: LabelSpace) -> TrainClips:
    """The training samples of a config, by number.

    Args:
        cfg: ``DATASETS``, ``DATALOADER`` and ``INPUT`` are read.
        label_space: classes of the network.

    Raises:
        ConfigError: a data set is unknown or not there, or its categories do not fit.
        AnnotationError: an annotation file breaks its format.
    """
    sets, node = _train_sets(cfg), cfg.DATASETS
    maps = list(node.CATEGORY_MAPS) or [""] * len(sets)
    if len(maps) != len(sets):
        raise ConfigError(
            f"DATASETS.CATEGORY_MAPS is {maps}; give one name or '' for each of the {len(sets)} "
            "sets of DATASETS.TRAIN."
        )
    tables = [
        label_table(
            data.categories,
            label_space,
            source=data.name,
            category_map=coco_map(name) if name else None,
            match=node.CLASS_MATCH,
            unknown=node.UNKNOWN_CLASSES,
        )
        for data, name in zip(sets, maps, strict=True)
    ]
    sizes = [sum(data.num_frames()) for data in sets]
    return TrainClips(
        sets,
        tables,
        SampleOrder(sizes, node.RATIOS, cfg.ENGINE.SEED),
        build_clip_mapper(cfg),
        seed=cfg.ENGINE.SEED,
        skip_errors=cfg.DATALOADER.ON_ERROR == "skip",
        paste_prob=_share(cfg),
    )


def _share(cfg: CfgNode) -> float:
    """``INPUT.COPY_PASTE_PROB``; ConfigError where it is no share."""
    share = float(cfg.INPUT.COPY_PASTE_PROB)
    if not 0 <= share <= 1:
        raise ConfigError(f"INPUT.COPY_PASTE_PROB is {share}; give a share in [0, 1].")
    return share


def build_clip_mapper(cfg: CfgNode) -> ClipMapper:
    """From a key frame to a training clip, by ``INPUT``.

    Raises:
        ConfigError: an unknown name.
    """
    way = behaviour(cfg)
    return ClipMapper(
        num_frames=cfg.INPUT.CLIP_FRAMES,
        sampler=build_sampler(way.sampler, cfg.INPUT.SAMPLER_RANGE),
        pseudo_clip=build_pseudo_clip(way.pseudo_clip),
        augmentation=build_augmentation(cfg.INPUT, way.augmentation),
        max_image_objects=cfg.INPUT.MAX_IMAGE_OBJECTS,
        keep_invisible=way.keep_invisible,
        degrade=tuple(Coarseness.parse(text) for text in cfg.INPUT.DEGRADE),
        votes_reach=cfg.MODEL.MASK_REFINER.VOTES_REACH,
        learn_frames=cfg.INPUT.LEARN_FRAMES,
        time_range=cfg.INPUT.SAMPLER_RANGE,
    )


def _train_sets(cfg: CfgNode) -> list[VideoDataset]:
    node = cfg.DATASETS
    if not node.TRAIN:
        raise ConfigError(
            "DATASETS.TRAIN is empty; name data sets or give path/to.json@path/to/images."
        )
    sets = [load_dataset(name, node.ROOT, node.MASK_KEY) for name in node.TRAIN]
    for data in sets:
        if data[0].annotations is None:
            raise ConfigError(f"data set {data.name}: has no annotations; it cannot train.")
    return sets


def build_train_loader(
    cfg: CfgNode,
    label_space: LabelSpace,
    *,
    rank: int = 0,
    world_size: int = 1,
    start_step: int = 0,
    pin_memory: bool = False,
) -> TrainLoader:
    """The training batches of one process.

    Args:
        cfg: ``DATASETS``, ``DATALOADER``, ``INPUT`` and ``SOLVER.CLIPS_PER_BATCH`` are read.
        label_space: classes of the network.
        rank: of this process, from 0.
        world_size: number of processes.
        start_step: step of the first batch; a run that resumes there sees what it would have seen.
        pin_memory: clips of worker processes arrive in page-locked memory, from where a copy to a
            GPU need not be waited for.

    Returns:
        An endless iterable. Each element is this process's part of one step: dicts with ``image``
        (T, 3, H, W) uint8 RGB, ``targets`` (``ClipTargets``, G >= 1), ``video_id``, ``clip_id``
        and ``dataset``. Sizes differ from clip to clip.

    Raises:
        ConfigError: a value cannot work, a data set is unknown or not there.
        AnnotationError: an annotation file breaks its format.
    """
    batch = _check_loader(cfg, rank, world_size)
    return TrainLoader(
        build_train_clips(cfg, label_space),
        batch=batch,
        rank=rank,
        world_size=world_size,
        start_step=start_step,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        pin_memory=pin_memory,
    )


def steps_per_epoch(cfg: CfgNode) -> int:
    """Steps in which every frame of every training video is once a key frame.

    As published (docs/reference/released_code.md#epoch). Images count as one key frame.
    At least 1; a rest that fills no batch goes to the next epoch.
    """
    frames = sum(sum(data.num_frames()) for data in _train_sets(cfg))
    return max(1, frames // _check_loader(cfg, 0, 1))
