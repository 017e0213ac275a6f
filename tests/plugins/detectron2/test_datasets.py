"""Data sets both ways: ours by the names that people use, registered ones in our loaders."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.plugins.detectron2.conftest import SIZE, reference
from vmt.data.catalog import load_dataset
from vmt.data.datasets.splits import SPLITS
from vmt.data.mapper import decode_masks
from vmt.structures.masks import decode_masks as decode
from vmt.utils.errors import AnnotationError, ConfigError

CLASSES = ["circle", "square", "triangle"]


def catalogs() -> Any:
    from detectron2.data import DatasetCatalog, MetadataCatalog

    return DatasetCatalog, MetadataCatalog


def dense(record: Any) -> dict[tuple[int, int], Any]:
    """(first frame seen, category) and pixels of the tracklets, whatever they are called."""
    tracklets = record.tracklets()
    masks = decode_masks(tracklets, len(record), record.size)
    return {(x.category_id, m.tobytes()): m.shape for x, m in zip(tracklets, masks, strict=True)}


def same_videos(ours: Any, theirs: Any, shift: int = 0) -> None:
    """``shift``: of the category ids."""
    assert len(ours) == len(theirs)
    for one, other in zip((ours[k] for k in range(len(ours))), theirs, strict=True):
        assert [p.resolve() for p in one.frame_paths] == [p.resolve() for p in other.frame_paths]
        assert (one.id, one.size) == (other.id, other.size)
        moved = {(c - shift, m): v for (c, m), v in dense(one).items()}
        assert moved == dense(other)


def test_the_names_that_people_use() -> None:
    datasets, metadata = catalogs()
    for split in SPLITS:
        assert split.name in datasets
    for name in (
        "ytvis_2019_val",
        "ytvis_2021_val",
        "ovis_val",
        "ytvis_2019_train",
        "hq_ytvis_val",
    ):
        described = metadata.get(name)
        assert len(described.thing_classes) == (25 if name.startswith("ovis") else 40)
        ids = described.thing_dataset_id_to_contiguous_id
        assert (ids[1], described.evaluator_type) == (0, "ytvis")
        assert described.json_file.endswith(".json")


@pytest.mark.parametrize(
    "name", ["ytvis_2019_train", "ytvis_2019_val", "ovis_val", "coco_2017_train"]
)
def test_our_sets_are_read_from_the_usual_places(
    name: str, tiny_datasets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets, _ = catalogs()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_datasets))
    data = load_dataset(name)
    assert len(data) > 1
    if name.startswith("coco"):
        return  # detectron2's own entry, made for the folder of when it was imported
    dicts = datasets.get(name)
    assert [video["video_id"] for video in dicts] == [data[k].id for k in range(len(data))]
    assert all(Path(path).is_file() for video in dicts for path in video["file_names"])
    assert ("annotations" in dicts[0]) == name.endswith("train")


def test_our_dicts_and_back(plugin: Any, videos: Path, register: Callable[[str], str]) -> None:
    """What a project registers in the form of ours is what we read."""
    from vmt.plugins.detectron2.datasets import prepare

    datasets, metadata = catalogs()
    dicts = plugin.video_dicts(reference(videos / "train"))
    video = dicts[0]
    assert len(video["annotations"]) == len(video["file_names"]) == video["length"] == 4
    entry = video["annotations"][0][0]
    mask = torch.as_tensor(decode([entry["segmentation"]], SIZE))[0]
    x, y, w, h = entry["bbox"]
    assert mask[y : y + h, x : x + w].sum() == mask.sum()
    assert {e["category_id"] for v in dicts for frame in v["annotations"] for e in frame} <= {
        0,
        1,
        2,
    }
    name = register("theirs_train")
    datasets.register(name, lambda: dicts)
    prepare([name])
    with pytest.raises(ConfigError, match=r"set MetadataCatalog\.get\('theirs_train'\)\.thing_cl"):
        load_dataset(name)
    metadata.get(name).set(
        thing_classes=CLASSES, thing_dataset_id_to_contiguous_id={1: 0, 2: 1, 3: 2}
    )
    data = load_dataset(name)
    assert data.categories == {1: "circle", 2: "square", 3: "triangle"}
    ours = load_dataset(reference(videos / "train"))
    same_videos(ours, [data[k] for k in range(len(data))])


def test_images_with_video_id(plugin: Any, videos: Path, register: Callable[[str], str]) -> None:
    """One dict per image, frames in any order, labels without a table of ids."""
    from vmt.plugins.detectron2.datasets import prepare

    datasets, metadata = catalogs()
    images = []
    for video in plugin.video_dicts(reference(videos / "train")):
        for t, objects in enumerate(video["annotations"]):
            entries = [{**e, "track_id": e["id"], "id": 100 + k} for k, e in enumerate(objects)]
            images.append(
                {
                    "file_name": video["file_names"][t],
                    "video_id": video["video_id"],
                    "frame_id": t,
                    "height": SIZE[0],
                    "width": SIZE[1],
                    "annotations": entries,
                }
            )
    by_video = [images[k : k + 4][::-1] for k in range(0, len(images), 4)]
    mixed = [image for frames in by_video for image in frames]
    name = register("frames_train")
    datasets.register(name, lambda: mixed)
    metadata.get(name).thing_classes = CLASSES
    prepare([name])
    data = load_dataset(name)
    assert data.categories == dict(enumerate(CLASSES))
    ours = load_dataset(reference(videos / "train"))
    same_videos(ours, [data[k] for k in range(len(data))], shift=1)
    del mixed[0]["annotations"][0]["track_id"]
    with pytest.raises(AnnotationError, match="has none of track_id, instance_id, object_id"):
        load_dataset(name)
    del mixed[1]["video_id"]
    with pytest.raises(AnnotationError, match="has no video_id, which others have"):
        load_dataset(name)


def test_register_coco_instances_with_video_ids(
    coco_with_video_ids: Path, videos: Path, register: Callable[[str], str]
) -> None:
    """detectron2 leaves ``video_id`` and ``track_id`` out of its dicts; the file has them."""
    from detectron2.data.datasets import register_coco_instances

    from vmt.plugins.detectron2.datasets import prepare

    datasets, _ = catalogs()
    name = register("coco_video_train")
    register_coco_instances(name, {}, str(coco_with_video_ids), str(videos / "train/JPEGImages"))
    assert "video_id" not in datasets.get(name)[0]
    prepare([name])
    data = load_dataset(name)
    assert len(data) == 3
    ours = load_dataset(reference(videos / "train"))
    same_videos(ours, [data[k] for k in range(len(data))])
    whole = datasets[name]
    datasets[name] = lambda: whole()[:-1]
    with pytest.raises(ConfigError, match=r"gives 11 images without video_id, and .* has 12"):
        load_dataset(name)


def test_images_without_videos_are_stills(
    coco_with_video_ids: Path, videos: Path, register: Callable[[str], str]
) -> None:
    from detectron2.data.datasets import register_coco_instances

    from vmt.plugins.detectron2.datasets import prepare

    content = json.loads(coco_with_video_ids.read_text())
    for row in content["images"]:
        del row["video_id"]
    coco_with_video_ids.write_text(json.dumps(content))
    name = register("stills_train")
    register_coco_instances(name, {}, str(coco_with_video_ids), str(videos / "train/JPEGImages"))
    prepare([name])
    data = load_dataset(name)
    assert len(data) == 12
    assert all(data[k].still for k in range(12))
    assert list(data.categories) == [1, 2, 3]
    first = data[0].tracklets([0])
    truth = [a for a in content["annotations"] if a["image_id"] == data[0].id]
    assert [t.category_id for t in first] == [a["category_id"] for a in truth]


def test_classes_of_the_network(
    plugin: Any, make_config: Callable[..., Any], videos: Path, register: Callable[[str], str]
) -> None:
    from vmt.plugins.detectron2.datasets import label_space_of

    datasets, metadata = catalogs()
    cfg = make_config()
    assert label_space_of(cfg).names == tuple(CLASSES)
    cfg.VMT.MODEL.LABEL_SPACE = ""
    assert label_space_of(cfg).names == tuple(CLASSES), "of the first of DATASETS.TRAIN"
    cfg.DATASETS.TRAIN = ("ovis_train",)
    assert len(label_space_of(cfg)) == 25
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = ()
    assert label_space_of(cfg).name == "ytvis_2019"
    name = register("named_train")
    dicts = plugin.video_dicts(reference(videos / "train"))
    datasets.register(name, lambda: dicts)
    metadata.get(name).thing_classes = ["a", "b", "c"]
    cfg.VMT.MODEL.LABEL_SPACE = name
    assert label_space_of(cfg).names == ("a", "b", "c")
    cfg.VMT.MODEL.LABEL_SPACE = "ytvis_2012"
    with pytest.raises(ConfigError, match="ytvis_2012"):
        label_space_of(cfg)


def test_clips_of_dicts(plugin: Any, make_config: Callable[..., Any], videos: Path) -> None:
    """``ClipDatasetMapper`` under detectron2's own loader, and whole videos at test time."""
    from detectron2.data import build_detection_train_loader

    cfg = make_config("seqformer_tiny", "INPUT.FORMAT", "BGR", "VMT.INPUT.CLIP_FRAMES", "3")
    dicts = plugin.video_dicts(reference(videos / "train"))
    mapper = plugin.ClipDatasetMapper(cfg, True)
    loader = build_detection_train_loader(
        dicts, mapper=mapper, total_batch_size=2, num_workers=0, aspect_ratio_grouping=False
    )
    clips = next(iter(loader))
    assert len(clips) == 2
    for clip in clips:
        assert len(clip["image"]) == len(clip["instances"]) == 3
        assert clip["image"][0].dtype == torch.uint8
        sizes = {instances.image_size for instances in clip["instances"]}
        assert sizes == {tuple(clip["image"][0].shape[1:])} == {(clip["height"], clip["width"])}
    np.random.seed(3)
    one = mapper(dicts[0])
    np.random.seed(3)
    again = mapper(dicts[0])
    assert all(torch.equal(a, b) for a, b in zip(one["image"], again["image"], strict=True))
    video = plugin.ClipDatasetMapper(cfg, False)(dicts[1])
    assert (video["video_id"], video["length"], video["height"]) == (2, 4, SIZE[0])
    assert [frame.shape for frame in video["frames"]] == [(*SIZE, 3)] * 4
    assert "annotations" not in video
