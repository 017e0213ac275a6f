"""Tests of the plug-in skip where detectron2 is not installed; `make test-detectron2` does not."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import REPO
from tests.engine.runs import TINY
from tests.synthetic import write_moving_shapes

SIZE = (64, 96)
#: ``TINY`` in a detectron2 config.
KEYS = {
    **{f"VMT.{key}": value for key, value in TINY.items() if key.startswith("MODEL.")},
    "VMT.INPUT.CLIP_FRAMES": "2",
    "VMT.INPUT.CROP_PROB": "0.0",
    "VMT.TEST.WINDOW": "0",
    "INPUT.MIN_SIZE_TRAIN": "(64,)",
    "INPUT.MIN_SIZE_TEST": "64",
    "SOLVER.IMS_PER_BATCH": "2",
    "SOLVER.MAX_ITER": "10",
    "SOLVER.STEPS": "()",
    "DATALOADER.NUM_WORKERS": "0",
    "MODEL.DEVICE": "cpu",
}


@pytest.fixture(autouse=True, scope="session")
def plugin() -> Any:
    pytest.importorskip("detectron2", reason="needs detectron2, see docs/howto/detectron2.md")
    import vmt.plugins.detectron2

    return vmt.plugins.detectron2


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``train`` and ``val``, three videos of four frames each."""
    folder = tmp_path_factory.mktemp("shapes")
    for name, seed in (("train", 0), ("val", 50)):
        write_moving_shapes(folder / name, 3, 4, SIZE, seed)
    return folder


def reference(folder: Path) -> str:
    """A data set as ``DATASETS.TRAIN`` names it."""
    return f"{folder / 'annotations.json'}@{folder / 'JPEGImages'}"


@pytest.fixture
def make_config(plugin: Any, videos: Path, tmp_path: Path) -> Callable[..., Any]:
    """A detectron2 config of a quick recipe over ``videos``: ``(recipe, KEY, VALUE, ...)``."""

    def make(recipe: str = "seqformer_tiny", *overrides: Any) -> Any:
        from detectron2.config import get_cfg

        cfg = get_cfg()
        plugin.merge_recipe(cfg, REPO / f"configs/quick/{recipe}.yaml")
        cfg.DATASETS.TRAIN = (reference(videos / "train"),)
        cfg.DATASETS.TEST = (reference(videos / "val"),)
        cfg.VMT.MODEL.LABEL_SPACE = str(videos / "train/annotations.json")
        cfg.OUTPUT_DIR = str(tmp_path / "output")
        keys = KEYS if recipe.startswith(("seqformer", "vmt", "msts")) else _without_network(KEYS)
        cfg.merge_from_list([word for pair in keys.items() for word in pair])
        cfg.merge_from_list(list(overrides))
        return cfg

    return make


def _without_network(keys: dict[str, str]) -> dict[str, str]:
    return {k: v for k, v in keys.items() if k not in ("VMT.INPUT.CLIP_FRAMES",)}


@pytest.fixture
def coco_with_video_ids(videos: Path, tmp_path: Path) -> Path:
    """The training videos as COCO: one row per image, ``video_id`` in it, ``track_id`` beside."""
    content = json.loads((videos / "train/annotations.json").read_text())
    images, objects, image_of = [], [], {}
    for video in content["videos"]:
        for t, name in enumerate(video["file_names"]):
            key = len(images) + 1
            image_of[video["id"], t] = key
            row = {"id": key, "file_name": name, "video_id": video["id"], "frame_id": t}
            images.append(row | {"height": SIZE[0], "width": SIZE[1]})
    for track in content["annotations"]:
        for t, mask in enumerate(track["segmentations"]):
            if mask is not None:
                row = {"id": len(objects) + 1, "image_id": image_of[track["video_id"], t]}
                row |= {"category_id": track["category_id"], "track_id": track["id"]}
                row |= {"segmentation": mask, "bbox": track["bboxes"][t], "iscrowd": 0}
                objects.append(row | {"area": track["areas"][t]})
    path = tmp_path / "coco_video.json"
    body = {"images": images, "annotations": objects, "categories": content["categories"]}
    path.write_text(json.dumps(body))
    return path


@pytest.fixture
def register(plugin: Any) -> Iterator[Callable[[str], str]]:
    """Names of data sets to forget after the test."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    from vmt.data import catalog

    names: list[str] = []

    def use(name: str) -> str:
        names.append(name)
        return name

    yield use
    for name in names:
        for table in (DatasetCatalog, MetadataCatalog, catalog._REGISTERED):
            table.pop(name, None)
