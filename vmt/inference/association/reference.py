"""What associations make of reference inputs, under the names of the reference files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vmt.inference.association.base import FrameLogits, TrackSummary
from vmt.inference.association.bisoftmax import BisoftmaxAssociation, BisoftmaxOptions
from vmt.inference.association.embedding_hungarian import EmbeddingHungarianAssociation
from vmt.inference.postprocess import masks_at_video_size
from vmt.modeling.criteria.ota import SimOta
from vmt.modeling.tracking.memory import MemoryOptions, TrackMemory
from vmt.modeling.tracking.quasi_dense import (
    BoxDetections,
    QuasiDenseMemory,
    QuasiDenseOptions,
)
from vmt.modeling.tracking.selection import (
    SelectionOptions,
    select_by_box,
    without_same_masks,
)
from vmt.modeling.video_model import FrameOutputs, ReferenceInputs

Arrays = dict[str, Tensor]
Size = tuple[int, int]

#: Thresholds as IDOL is published for the two data sets.
BISOFTMAX = {
    "ytvis": BisoftmaxOptions(),
    "ovis": BisoftmaxOptions(SelectionOptions(mask_iou=0.3), MemoryOptions(birth_score=0.3)),
}
#: Settings of the reference files of QDTrack.
QUASI_DENSE = {
    "default": QuasiDenseOptions(init_score=0.8, object_score=0.5),
    "bdd100k": QuasiDenseOptions(),
    "cosine_nocats": QuasiDenseOptions(
        init_score=0.6,
        memory_frames=5,
        backdrop_frames=2,
        momentum=0.5,
        same_class=False,
        metric="cosine",
    ),
}
#: (track, class) pairs that the reference files of whole networks hold.
RESULTS = {"bisoftmax": 20, "embedding_hungarian": 10}


def associated_arrays(
    association: str, frames: Sequence[FrameOutputs], inputs: ReferenceInputs
) -> Arrays:
    """Tracks and results of a video, from what a network says about its frames.

    Args:
        association: its name, as in ``TEST.ASSOCIATION``.
        frames: all frames of the video.
        inputs: ``video_size`` is the (h, w) of the results.
    """
    size = _size(inputs["video_size"])
    if association == "embedding_hungarian":
        return _linked(frames, size)
    arrays = _tracked(frames, BISOFTMAX["ytvis"], size)
    best = arrays["result_scores"].argsort(descending=True, stable=True)[: RESULTS[association]]
    return arrays | {name: value[best] for name, value in arrays.items() if "result_" in name}


def _tracked(frames: Sequence[FrameOutputs], options: BisoftmaxOptions, size: Size) -> Arrays:
    """Detections, ids and results; ids count from 0 and -1 is none."""
    boxes: list[tuple[int, int]] = []
    objects: list[tuple[int, int, int]] = []
    memory = TrackMemory(options.memory)
    for index, frame in enumerate(frames):
        chosen = select_by_box(frame.class_probs(), frame.boxes_cxcywh, options.selection)
        boxes += [(index, query) for query in chosen.query.tolist()]
        masks = frame.masks(chosen.query)
        chosen = chosen.at(without_same_masks(masks, options.selection))
        ids = memory.step(index, chosen.scores, frame.embeddings[chosen.query].float())
        pairs = zip(chosen.query.tolist(), ids, strict=True)
        objects += [(index, query, -1 if i is None else i) for query, i in pairs]
    association = BisoftmaxAssociation(options)
    association.add(0, frames)
    tracks = association.pop_closed(everything=True)
    results = _results(association.pop_frames(len(frames)), tracks, size)
    return {
        **_columns("box_nms_", ("frame", "query"), boxes),
        **_columns("det_", ("frame", "query", "id"), objects),
        **results,
    }


def _linked(frames: Sequence[FrameOutputs], size: Size) -> Arrays:
    alignment = EmbeddingHungarianAssociation()
    permutation = torch.stack([alignment.align(frame.embeddings.float()) for frame in frames])
    association = EmbeddingHungarianAssociation(RESULTS["embedding_hungarian"])
    association.add(0, frames)
    logits = association.mean_logits()
    tracks = association.pop_closed(everything=True)
    results = _results(association.pop_frames(len(frames)), tracks, size)
    order = results["result_scores"].argsort(descending=True, stable=True)
    results = {name: value[order] for name, value in results.items()}
    return {"permutation": permutation.int(), "linked_logits": logits, **results}


def _results(frames: Sequence[FrameLogits], tracks: Sequence[TrackSummary], size: Size) -> Arrays:
    """(track, class) pairs with masks, by track and class."""
    masks = torch.zeros(len(tracks), len(frames), *size, dtype=torch.bool)
    row_of = {track.track_id: row for row, track in enumerate(tracks)}
    for frame in frames:
        crops = masks_at_video_size(
            frame.logits, frame.mask_stride, frame.input_size, size, upsampling=frame.upsampling
        )
        for track_id, crop in zip(frame.track_ids, crops, strict=True):
            h, w = crop.bits.shape
            part = masks[row_of[track_id], frame.index, crop.y : crop.y + h, crop.x : crop.x + w]
            part |= torch.from_numpy(crop.bits)
    pairs = [
        (row, pair.label, pair.score)
        for row, track in enumerate(tracks)
        for pair in sorted(track.classes, key=lambda pair: pair.label)
    ]
    rows, labels, scores = zip(*pairs, strict=True) if pairs else ((), (), ())
    return {
        "result_scores": torch.tensor(scores),
        "result_labels": torch.tensor(labels, dtype=torch.int32),
        "result_masks": masks[list(rows)],
    }


def _idol_tracker(inputs: ReferenceInputs) -> Arrays:
    arrays: Arrays = {}
    image, video = _size(inputs["v_image_size"]), _size(inputs["v_video_size"])
    logits, boxes, masks, embeds = (
        torch.from_numpy(np.asarray(inputs[f"v_{name}"])).float()
        for name in ("logits", "boxes", "masks", "embeds")
    )
    frames = [
        FrameOutputs(*four, mask_stride=4, input_size=image, upsampling="nearest")
        for four in zip(logits, boxes, masks, embeds, strict=True)
    ]
    for name, options in BISOFTMAX.items():
        arrays |= {f"t_{k}_{name}": v for k, v in _tracker_alone(inputs, options).items()}
        arrays |= {f"v_{k}_{name}": v for k, v in _tracked(frames, options, video).items()}
    return arrays


def _tracker_alone(inputs: ReferenceInputs, options: BisoftmaxOptions) -> Arrays:
    frame_of, scores, embeds, masks = (
        torch.from_numpy(np.asarray(inputs[f"t_{name}"]))
        for name in ("frame", "scores", "embeds", "masks")
    )
    ids = torch.full_like(frame_of, -3)
    memory, rows, vectors = TrackMemory(options.memory), [], []
    for frame in range(int(frame_of.max()) + 1):
        here = (frame_of == frame).nonzero()[:, 0]
        here = here[without_same_masks(masks[here].float(), options.selection)]
        joined = memory.step(frame, scores[here], embeds[here])
        ids[here] = torch.tensor([-1 if i is None else i for i in joined], dtype=ids.dtype)
        for track, entry in memory.entries.items():
            rows.append((frame, track, entry.matches, entry.last_frame))
            vectors.append(entry.vector())
    names = ("frame", "id", "matches", "last")
    return {"ids": ids, "mem_vector": torch.stack(vectors), **_columns("mem_", names, rows)}


def _minvis_linking(inputs: ReferenceInputs) -> Arrays:
    frames = [
        FrameOutputs(
            torch.from_numpy(np.asarray(inputs["logits"][t])),
            None,
            torch.from_numpy(np.asarray(inputs["masks"][t])).float(),
            torch.from_numpy(np.asarray(inputs["embeds"][t])),
            mask_stride=4,
            input_size=_size(inputs["image_size"]),
            no_object=True,
        )
        for t in range(len(inputs["embeds"]))
    ]
    return _linked(frames, _size(inputs["video_size"]))


def _idol_simota(inputs: ReferenceInputs) -> Arrays:
    arrays: Arrays = {}
    for case in range(int(np.asarray(inputs["cases"]))):
        logits, boxes, labels, gt_boxes, valid = (
            torch.from_numpy(np.asarray(inputs[f"{case}_{name}"]))
            for name in ("logits", "boxes", "gt_labels", "gt_boxes", "gt_valid")
        )
        ota = SimOta()
        match = ota(logits, boxes, labels, gt_boxes)
        selected = torch.zeros(len(logits), dtype=torch.bool)
        selected[match.query_index] = True
        positive = torch.zeros(len(labels), len(logits), dtype=torch.bool)
        exclusion = positive.clone()
        pairs = ota.reference_pairs(logits, boxes, labels[valid], gt_boxes[valid])
        positive[valid], exclusion[valid] = pairs.positive, pairs.exclusion
        found = {
            "selected": selected,
            "gt_index": match.target_index,
            "best": match.best,
            "positive": positive,
            "exclusion": exclusion,
        }
        arrays |= {f"{case}_{name}": value for name, value in found.items()}
    return arrays


def _quasi_dense(inputs: ReferenceInputs) -> Arrays:
    frame_of, *fields = (
        torch.from_numpy(np.asarray(inputs[name]))
        for name in ("frame", "boxes", "scores", "labels", "embeds")
    )
    detections = BoxDetections(*fields)
    arrays: Arrays = {}
    for name, options in QUASI_DENSE.items():
        memory, ids = QuasiDenseMemory(options), torch.zeros_like(frame_of)
        rows: list[tuple[int, int, int]] = []
        vectors = [torch.zeros(0, detections.embeddings.shape[1])]
        for frame in range(int(inputs["num_frames"])):
            here = (frame_of == frame).nonzero()[:, 0]
            ids[here] = memory.step(frame, detections.at(here))
            for track, entry in memory.entries.items():
                rows.append((frame, track, entry.last_frame))
                vectors.append(entry.embedding[None])
        table = torch.tensor(rows, dtype=torch.int64).reshape(-1, 3)
        arrays |= {f"ids_{name}": ids, f"memory_embed_{name}": torch.cat(vectors)}
        for column, field in enumerate(("frame", "id", "last")):
            arrays[f"memory_{field}_{name}"] = table[:, column]
    return arrays


#: Fixture -> what it makes of the inputs; no network is needed.
FIXTURES: dict[str, Callable[[ReferenceInputs], Mapping[str, Tensor]]] = {
    "idol_tracker": _idol_tracker,
    "idol_simota": _idol_simota,
    "minvis_linking": _minvis_linking,
    "quasi_dense": _quasi_dense,
}


def _columns(prefix: str, names: Sequence[str], rows: Sequence[Sequence[int]]) -> Arrays:
    table = torch.tensor(rows, dtype=torch.int32).reshape(-1, len(names))
    return {prefix + name: table[:, column] for column, name in enumerate(names)}


def _size(value: NDArray[np.generic]) -> Size:
    height, width = np.asarray(value).tolist()
    return int(height), int(width)
