"""A folder where the commands of the pages run as they are written: tiny files of those names."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image

from cocoapi_hq.io import rle
from tests.docs.blocks import REPO
from tests.synthetic import CATEGORIES, ShapeVideo, moving_shapes
from vmt.checkpoint.key_maps.idol import IDOL
from vmt.checkpoint.key_maps.released import RELEASED
from vmt.inference.load import load_model
from vmt.inference.video_writer import VideoWriter

SIZE, FRAMES = (96, 128), 5
#: Weight files in the layout of the published ones -> config of their network, and its names.
WEIGHTS = {
    "checkpoint_r50_final.pth": ("configs/hq_ytvis/vmt_R50_released.yaml", RELEASED),
    "seqformer_r50.pth": ("configs/ytvis_2019/seqformer_R50.yaml", RELEASED),
    "idol_ytvis_2019_r50.pth": ("configs/ytvis_2019/idol_R50.yaml", IDOL),
}
FFMPEG = """#!{python}
import sys
from collections.abc import Sequence
from pathlib import Path
import cv2
words = dict(zip(sys.argv[1:-1:2], sys.argv[2:-1:2]))
video = cv2.VideoCapture(words["-i"])
fps, number, t = video.get(cv2.CAP_PROP_FPS), int(words.get("-start_number", 1)), 0
while True:
    there, frame = video.read()
    if not there:
        break
    if "-r" not in words or t * float(words["-r"]) % fps < float(words["-r"]):
        cv2.imwrite(sys.argv[-1] % number, frame)
        number += 1
    t += 1
"""


def write_world(folder: Path) -> None:
    """Everything that a page names, tiny; weights are links to files made once."""
    for name in ("configs", "tools", "benchmarks", "cocoapi_hq", "vmt", "docs"):
        (folder / name).symlink_to(REPO / name)
    video = moving_shapes(FRAMES, SIZE, seed=3)
    _write_video(folder / "my.mp4", video, 2)
    (folder / "clips").mkdir()
    for number in (1, 2):
        clip = moving_shapes(FRAMES, SIZE, seed=number)
        _write_video(folder / f"clips/clip{number}.mp4", clip)
        _write_polygons(folder / f"polygons/clip{number}", clip, range(3))
    _write_polygons(folder / "my_polygons", video, [1])
    _write_frames(folder / "JPEGImages/a", video)
    _write_frames(folder / "images/a", video)
    _write_label_maps(folder / "masks", video, 2)
    _write_label_maps(folder / "label_maps/a", video)
    annotations = _annotations(video)
    for name in ("my", "my_val", "train", "val", "instances", "clean", "gt"):
        (folder / f"{name}.json").write_text(json.dumps(annotations))
    results = [
        {"video_id": 1, "category_id": row["category_id"], "score": 0.9}
        | {"segmentations": row["segmentations"]}
        for row in annotations["annotations"]
    ]
    for name in ("results", "ours", "theirs"):
        (folder / f"{name}.json").write_text(json.dumps(results))
    davis = folder / "DAVIS"
    _write_frames(davis / "JPEGImages/480p/a", video)
    _write_label_maps(davis / "Annotations/480p/a", video)
    _write_photos(folder / "my", video)
    ffmpeg = folder / "bin/ffmpeg"
    ffmpeg.parent.mkdir()
    ffmpeg.write_text(FFMPEG.format(python=sys.executable))
    ffmpeg.chmod(0o755)


def write_datasets(folder: Path, tiny: Path) -> None:
    """``datasets/`` of a clone: its scripts, and stand-ins of the data sets."""
    shutil.copytree(tiny, folder / "datasets")
    for path in (REPO / "datasets").glob("*.py"):
        (folder / "datasets" / path.name).symlink_to(path)


def write_weights(folder: Path) -> None:
    """Random weights under the names of the published files, in their layout."""
    folder.mkdir()
    for name, (config, names) in WEIGHTS.items():
        torch.manual_seed(0)
        model = load_model(REPO / config, None, ["MODEL.DEVICE", "cpu"])
        torch.save({"model": names.to_released(model.state_dict()).state}, folder / name)
    (folder / "seqformer_coco_r50.pth").symlink_to(folder / "seqformer_r50.pth")


def _write_video(path: Path, video: ShapeVideo, frames: int = FRAMES) -> None:
    with VideoWriter(path, 12.0, SIZE) as writer:
        for frame in video.frames[:frames]:
            writer.write(frame)


def _write_frames(folder: Path, video: ShapeVideo) -> None:
    folder.mkdir(parents=True)
    for t, frame in enumerate(video.frames):
        Image.fromarray(frame).save(folder / f"{t:05d}.jpg")


def _write_label_maps(folder: Path, video: ShapeVideo, frames: int = FRAMES) -> None:
    folder.mkdir(parents=True)
    for t in range(frames):
        labels = np.zeros(SIZE, np.uint8)
        for g, masks in enumerate(video.masks):
            labels[masks[t]] = g + 1
        Image.fromarray(labels).save(folder / f"{t:05d}.png")


def _write_polygons(folder: Path, video: ShapeVideo, frames: Sequence[int]) -> None:
    """As labelme writes them."""
    folder.mkdir(parents=True)
    for t in frames:
        shapes = []
        for g, masks in enumerate(video.masks):
            contours, _ = cv2.findContours(
                masks[t].astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
            )
            points = max(contours, key=len)[:, 0].tolist() if contours else []
            if len(points) > 2:
                label = CATEGORIES[video.category_ids[g] - 1]
                shapes.append({"label": label, "points": points, "group_id": g})
                shapes[-1] |= {"shape_type": "polygon", "flags": {}}
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imageData": None}
        content |= {"imagePath": f"{t:05d}.jpg", "imageHeight": SIZE[0], "imageWidth": SIZE[1]}
        (folder / f"{t:05d}.json").write_text(json.dumps(content))


def _annotations(video: ShapeVideo) -> dict[str, object]:
    names = [f"a/{t:05d}.jpg" for t in range(FRAMES)]
    row = {"id": 1, "height": SIZE[0], "width": SIZE[1], "length": FRAMES, "file_names": names}
    annotations = [
        {"id": g + 1, "video_id": 1, "category_id": category, "iscrowd": 0}
        | {"segmentations": [rle.encode(m) if m.any() else None for m in video.masks[g]]}
        for g, category in enumerate(video.category_ids)
    ]
    categories = [{"id": i, "name": name} for i, name in enumerate(CATEGORIES, start=1)]
    return {"videos": [row], "annotations": annotations, "categories": categories}


def _write_photos(folder: Path, video: ShapeVideo) -> None:
    """COCO JSON of the frames."""
    _write_frames(folder / "JPEGImages", video)
    size = {"height": SIZE[0], "width": SIZE[1]}
    images = [{"id": t + 1, "file_name": f"{t:05d}.jpg", **size} for t in range(FRAMES)]
    annotations = [
        {"id": FRAMES * g + t + 1, "image_id": t + 1, "category_id": 1, "iscrowd": 0}
        | {"segmentation": rle.encode(m), "area": int(m.sum()), "bbox": [0, 0, 1, 1]}
        for g, masks in enumerate(video.masks)
        for t, m in enumerate(masks)
        if m.any()
    ]
    content = {"images": images, "annotations": annotations}
    content["categories"] = [{"id": 1, "name": "object"}]
    (folder / "instances.json").write_text(json.dumps(content))
