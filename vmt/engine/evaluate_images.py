"""The results of a network about an image of a data set."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vmt.data.images import read_frame
from vmt.data.records import VideoRecord
from vmt.engine.result_folder import ResultFolder
from vmt.inference.images import ImagePredictor
from vmt.structures.masks import encode_masks
from vmt.utils.atomic import write_text


def write_image(
    predictor: ImagePredictor,
    record: VideoRecord,
    store: ResultFolder,
    category_ids: Sequence[int | None],
) -> None:
    """One image into its file, a line per object.

    Args:
        predictor: finds them.
        record: the image.
        store: has the place of the file.
        category_ids: one per label; objects of a label without one are left out.
    """
    found = predictor(read_frame(record.frame_paths[0], record.size))
    masks = encode_masks(found.masks)
    boxes: list[dict[str, Any]] = [{}] * len(masks)
    if found.boxes_xyxy_px is not None:
        xyxy = found.boxes_xyxy_px.tolist()
        boxes = [{"bbox": [x1, y1, x2 - x1, y2 - y1]} for x1, y1, x2, y2 in xyxy]
    rows = zip(found.labels.tolist(), found.scores.tolist(), masks, boxes, strict=True)
    lines = [
        json.dumps(
            {
                "image_id": record.id,
                "category_id": category_ids[label],
                "score": score,
                "segmentation": mask,
                **box,
            }
        )
        for label, score, mask, box in rows
        if category_ids[label] is not None
    ]
    write_text(store.path(record.id), "[\n" + ",\n".join(lines) + "\n]\n")
