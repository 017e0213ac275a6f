"""The detection set of BDD100K: boxes of single images, for networks that learn no mask there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.engine.clips import SHAPES, quick_config
from vmt.data.catalog import has_boxes_only, load_dataset
from vmt.data.clip_sampler import build_sampler
from vmt.data.datasets.boxes import load_boxes
from vmt.data.datasets.categories import label_space
from vmt.data.labels import label_table
from vmt.data.mapper import ClipMapper, decode_masks
from vmt.data.pseudo_clip import build_pseudo_clip
from vmt.data.transforms import Compose
from vmt.engine.switches import check_switches
from vmt.inference.video_writer import write_png
from vmt.modeling.meta_arch.build import build_network
from vmt.utils.errors import AnnotationError, ConfigError

SIZE = (20, 30)


def label(category: str, box: Any = (2, 3, 5, 9), **more: Any) -> dict[str, Any]:
    sides = dict(zip(("x1", "y1", "x2", "y2"), box, strict=True)) if box is not None else None
    return {"id": "1", "category": category, "box2d": sides, **more}


def written(folder: Path, *labels: Any) -> Path:
    """A file whose frame k has the k-th labels."""
    frames = [{"name": f"{k}.png", "labels": found} for k, found in enumerate(labels)]
    for k in range(len(labels)):
        write_png(folder / f"{k}.png", np.full((*SIZE, 3), 9, np.uint8))
    (folder / "det.json").write_text(json.dumps(frames))
    return folder / "det.json"


def test_boxes_are_masks_that_say_so(tmp_path: Path) -> None:
    crowd = label("car", attributes={"crowd": True})
    path = written(
        tmp_path, None, [label("person"), label("other vehicle"), crowd, label("car", None)],
        [label("traffic sign", (10.4, 0, 29, 19))],
    )  # fmt: skip
    data = load_boxes(path, tmp_path, "det")
    assert (len(data), list(data.num_frames())) == (2, [1, 1])
    first, second = data[0], data[1]
    assert (first.id, first.name, first.size, first.boxes_only) == (2, "1", SIZE, True)
    (person,) = first.tracklets()
    assert data.categories[person.category_id] == "pedestrian"
    (mask,) = decode_masks([person], 1, SIZE)
    assert [v.tolist() for v in np.nonzero(mask[0].any(0))] == [[2, 3, 4, 5]]
    assert [v.tolist() for v in np.nonzero(mask[0].any(1))] == [[3, 4, 5, 6, 7, 8, 9]]
    (sign,) = second.tracklets()
    assert decode_masks([sign], 1, SIZE)[0, 0].sum() == 20 * 20, "the left edge is at 10.4"


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([label("ufo")], r"\[0\]\.labels\[0\]\.category is 'ufo'; the detection set has pedestr"),
        ([label("car", (5, 3, 2, 9))], "x2 and y2 must not be below"),
        ([{"category": "car", "box2d": {"x1": 1}}], r"labels\[0\]\.box2d is .*give finite x1"),
        ([7], r"labels\[0\] is 7; give a label object"),
        (7, r"\[0\]\.labels is 7; give a list"),
        ([], r"no image has a label with a box"),
    ],
)
def test_what_is_wrong_with_a_file(labels: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(AnnotationError, match=message):
        load_boxes(written(tmp_path, labels), tmp_path, "det")


def test_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "det.json"
    for content, message in (("7", "no list of Scalabel frames"), ("[{}]", r"\[0\] is \{\}")):
        path.write_text(content)
        with pytest.raises(AnnotationError, match=message):
            load_boxes(path, tmp_path, "det")


def test_samples_carry_the_word(tiny_datasets: Path) -> None:
    """And the classes that MOTS lacks are dropped where the config says so."""
    space = label_space("bdd100k_mots")
    data = load_dataset("bdd100k_det_train", str(tiny_datasets))
    table = label_table(data.categories, space, source="det", unknown="drop")
    mapper = ClipMapper(2, build_sampler("range", 5), build_pseudo_clip("copies"), Compose([]))
    sample = mapper(data[0], 0, table, np.random.default_rng(0))
    assert sample is not None
    targets = sample["targets"]
    assert targets.boxes_only
    assert targets.to("cpu").select(torch.tensor([0])).boxes_only
    assert targets.labels.tolist() == [2], "the traffic sign is gone"
    video = load_dataset("bdd100k_mots_train", str(tiny_datasets))
    assert not mapper(video[0], 0, table, np.random.default_rng(0))["targets"].boxes_only


def test_networks_that_learn_masks_refuse_them() -> None:
    assert has_boxes_only("bdd100k_det_val")
    assert not has_boxes_only("bdd100k_mots_val")
    assert not has_boxes_only("my.json@images")
    cfg = quick_config("seqformer_tiny", "DATASETS.TRAIN", "[coco_2017_train, bdd100k_det_train]")
    model = build_network(cfg, SHAPES)
    with pytest.raises(ConfigError, match="bdd100k_det_train has boxes and no masks, and MODEL"):
        check_switches(cfg, model, 1)
    model.learns_from_boxes = True
    check_switches(cfg, model, 1)
