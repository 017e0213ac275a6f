"""Whole sets: results per video on disk, joined, scored; a killed evaluation goes on."""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.inference.fake_model import BlobFrameModel, BlobModel, blob_video
from vmt.config.node import load_config
from vmt.data.catalog import load_dataset
from vmt.data.images import read_frame
from vmt.engine.evaluate import (
    SetResults,
    _say_which_classes,
    annotation_file,
    evaluate_set,
    set_titles,
)
from vmt.engine.result_folder import ResultFolder, fingerprint
from vmt.inference.video_writer import write_png
from vmt.structures.labels import LabelSpace
from vmt.utils.errors import ConfigError, VideoError

SIZE = (48, 80)


class CountedModel(BlobModel):
    """Knows its settings, as a real network does."""

    def __init__(self) -> None:
        super().__init__(noise_queries=0)


@pytest.fixture
def reference(tmp_path: Path) -> str:
    """Three videos of blobs whose annotations are what the network says of them."""
    videos: list[dict[str, Any]] = []
    for k in range(3):
        names = []
        for t, frame in enumerate(blob_video(4, SIZE, blobs=1 + k % 2)):
            path = tmp_path / "images" / f"v{k}" / f"{t:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, frame.numpy())
            names.append(f"v{k}/{t:05d}.png")
        size = {"height": SIZE[0], "width": SIZE[1]}
        videos.append({"id": 7 + k, "length": 4, "file_names": names, **size})
    categories = [{"id": c, "name": n} for c, n in ((10, "red"), (20, "green"), (30, "blue"))]
    path = tmp_path / "truth.json"
    content = {"videos": videos, "categories": categories, "annotations": []}
    path.write_text(json.dumps(content))
    return f"{path}@{tmp_path / 'images'}"


def config(*overrides: str) -> Any:
    return load_config(None, ["INPUT.MIN_SIZE_TEST", str(SIZE[0]), *overrides])


def evaluate(
    reference: str, folder: Path, cfg: Any = None, model: Any = None, **options: Any
) -> SetResults | None:
    chosen = cfg if cfg is not None else config()
    return evaluate_set(chosen, model or CountedModel(), reference, folder, **options)


def annotate(reference: str, results: Path) -> None:
    """Make the results the truth."""
    path = Path(reference.partition("@")[0])
    content = json.loads(path.read_text())
    entries = json.loads(results.read_text())
    content["annotations"] = [
        {
            "id": index,
            "video_id": entry["video_id"],
            "category_id": entry["category_id"],
            "segmentations": entry["segmentations"],
            "iscrowd": 0,
            "areas": [100] * 4,
        }
        for index, entry in enumerate(entries, start=1)
    ]
    path.write_text(json.dumps(content))


def test_results_are_joined_in_the_order_of_the_file_and_scored(
    reference: str, tmp_path: Path
) -> None:
    found = evaluate(reference, tmp_path / "first", config("TEST.ZIP", "true"))
    assert found is not None
    assert found.numbers == {}  # nothing to score with yet
    entries = json.loads(found.path.read_text())
    assert list(dict.fromkeys(entry["video_id"] for entry in entries)) == [7, 8, 9]
    assert all(len(entry["segmentations"]) == 4 for entry in entries)
    with zipfile.ZipFile(tmp_path / "first" / "results.zip") as archive:
        assert archive.namelist() == ["results.json"]
        assert archive.read("results.json") == found.path.read_bytes()
    best = [e for e in entries if e["score"] > 0.5]
    (tmp_path / "best.json").write_text(json.dumps(best))
    annotate(reference, tmp_path / "best.json")
    scored = evaluate(reference, tmp_path / "second")
    assert scored is not None
    assert scored.numbers["tube_mask/AP"] == pytest.approx(1.0)
    assert scored.numbers["tube_boundary/AP"] == pytest.approx(1.0)
    kept = json.loads((tmp_path / "second" / "metrics.json").read_text())
    assert kept["tube_mask/AP"] == pytest.approx(1.0)


def test_a_killed_evaluation_computes_only_what_is_missing(reference: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    answers = iter([False, True])
    assert evaluate(reference, folder, stopping=lambda: next(answers)) is None
    assert sorted(p.name for p in (folder / "videos").iterdir()) == ["7.json", "8.json"]
    assert not (folder / "results.json").exists()
    model = CountedModel()
    found = evaluate(reference, folder, model=model)
    assert found is not None
    assert model.clips == [4]  # one video of four frames
    whole = evaluate(reference, tmp_path / "straight")
    assert whole is not None
    assert found.path.read_bytes() == whole.path.read_bytes()


@pytest.mark.parametrize("change", ["weights", "settings"])
def test_results_of_another_network_are_not_mixed_in(
    reference: str, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "out"
    evaluate(reference, folder)
    model, cfg = CountedModel(), config()
    if change == "weights":
        model.colours.add_(1.0)
    else:
        cfg = config("TEST.WINDOW", "2")
    with caplog.at_level(logging.WARNING):
        evaluate(reference, folder, cfg, model)
    assert "other weights, settings or data; starting over" in caplog.text
    assert sum(model.clips) >= 12


def mirrored(reference: str, folder: Path) -> str:
    """The same file name elsewhere: the same videos, upside down."""
    path, _, images = reference.partition("@")
    folder.mkdir()
    (folder / Path(path).name).write_text(Path(path).read_text())
    for frame in Path(images).rglob("*.png"):
        copy = folder / "images" / frame.relative_to(images)
        copy.parent.mkdir(parents=True, exist_ok=True)
        write_png(copy, read_frame(frame)[::-1].copy())
    return f"{folder / Path(path).name}@{folder / 'images'}"


def test_files_of_one_name_do_not_get_each_others_results(reference: str, tmp_path: Path) -> None:
    """And those of the first come back without being computed again."""
    folder, other = tmp_path / "out", mirrored(reference, tmp_path / "other")
    evaluate(reference, folder)
    first = (folder / "results.json").read_bytes()
    evaluate(other, folder)
    straight = evaluate(other, tmp_path / "straight")
    assert straight is not None
    assert (folder / "results.json").read_bytes() == straight.path.read_bytes() != first
    model = CountedModel()
    evaluate(reference, folder, model=model)
    assert model.clips == []
    assert (folder / "results.json").read_bytes() == first


def test_files_of_other_results_do_not_stay_beside_new_ones(reference: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    evaluate(reference, folder, config("TEST.ZIP", "true"))
    evaluate(reference, folder, config("TEST.WINDOW", "2"))
    assert not (folder / "results.zip").exists()


def changed(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else [*value, 1]


def leaves(node: Any, path: str) -> Iterator[str]:
    for key, value in node.items():
        name = f"{path}.{key}"
        if isinstance(value, dict):
            yield from leaves(value, name)
        else:
            yield name


def test_every_setting_counts_but_for_those_that_cannot(reference: str) -> None:
    records, model, ids = list(load_dataset(reference)), CountedModel(), (10, 20, 30)
    base = fingerprint(config(), model, records, ids)
    without = set()
    for section in ("MODEL", "INPUT", "TEST"):
        for name in leaves(config()[section], section):
            cfg = config().clone()
            cfg.defrost()
            *path, leaf = name.split(".")
            node = cfg
            for part in path:
                node = node[part]
            node[leaf] = changed(node[leaf])
            if fingerprint(cfg, model, records, ids) == base:
                without.add(name)
    assert without == {
        *("MODEL.WEIGHTS", "MODEL.NEW_PARAMETERS", "MODEL.DEVICE", "MODEL.LABEL_SPACE"),
        *("TEST.FRAME_CHUNK", "TEST.CONFIDENCE", "TEST.EVAL_PERIOD", "TEST.METRICS"),
        *("TEST.PROTOCOL", "TEST.BEST_METRIC", "TEST.ZIP", "TEST.GRAPH"),
        *("TEST.SKIP_BROKEN_VIDEOS", "TEST.EXPECTED_RESULTS"),
    }


def test_what_is_read_counts(reference: str, tmp_path: Path) -> None:
    records, model, ids = list(load_dataset(reference)), CountedModel(), (10, 20, 30)
    base = fingerprint(config(), model, records, ids)
    assert fingerprint(config(), model, records, ids) == base
    others = [
        fingerprint(config(), model, records[:2], ids),
        fingerprint(config(), model, [replace(records[0], id=99), *records[1:]], ids),
        fingerprint(config(), model, [replace(r, image_root=tmp_path) for r in records], ids),
        fingerprint(config(), model, records, (20, 10, 30)),
    ]
    write_png(records[1].frame_paths[0], blob_video(1, SIZE, blobs=3)[0].numpy())
    others.append(fingerprint(config(), model, records, ids))
    model.colours[2, 2] = 254.0
    others.append(fingerprint(config(), model, records, ids))
    assert len({base, *others}) == 7


def with_categories(reference: str, path: Path, **categories: int) -> str:
    content = json.loads(Path(reference.partition("@")[0]).read_text())
    content["categories"] = [{"id": key, "name": name} for name, key in categories.items()]
    path.write_text(json.dumps(content))
    return f"{path}@{reference.partition('@')[2]}"


def ids_of_best(found: SetResults | None) -> set[int]:
    assert found is not None
    return {e["category_id"] for e in json.loads(found.path.read_text()) if e["score"] > 0.5}


def test_results_have_the_category_ids_of_the_file_by_name(
    reference: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first blob of a video is red, the second green; the network calls them 10 and 20."""
    assert ids_of_best(evaluate(reference, tmp_path / "own")) == {10, 20}
    other = with_categories(reference, tmp_path / "o.json", Green=10, RED=2, blue=5, cup=7)
    with caplog.at_level(logging.INFO):
        assert ids_of_best(evaluate(other, tmp_path / "other")) == {2, 10}
    assert "classes that the network cannot find: cup" in caplog.text
    fewer = with_categories(reference, tmp_path / "f.json", green=1)
    caplog.clear()
    with caplog.at_level(logging.INFO):
        assert ids_of_best(evaluate(fewer, tmp_path / "fewer")) == {1}
    assert "lacks 2 classes, without results: red, blue" in caplog.text
    assert "cannot find" not in caplog.text
    caplog.clear()
    _say_which_classes("one", {4: "red", 5: "cup"}, LabelSpace("one", ("red",), (1,)), (4,))
    assert "one: classes that the network cannot find: cup" in caplog.text
    by_id = with_categories(reference, tmp_path / "i.json", a=20, b=10)
    assert ids_of_best(evaluate(by_id, tmp_path / "id", config("DATASETS.CLASS_MATCH", "id"))) == {
        10,
        20,
    }


def test_classes_that_do_not_agree_are_refused_with_names(reference: str, tmp_path: Path) -> None:
    foreign = with_categories(reference, tmp_path / "o.json", cup=10, ball=20)
    with pytest.raises(ConfigError, match=r"o\.json.*\(cup, ball\) are none .*\(red, green"):
        evaluate(foreign, tmp_path / "x")
    twice = with_categories(reference, tmp_path / "t.json", red=1, Red=2)
    with pytest.raises(ConfigError, match=r"categories 1 'red' and 2 'Red' are one class, 'red'"):
        evaluate(twice, tmp_path / "x")


def test_without_classes_all_count_as_one(reference: str, tmp_path: Path) -> None:
    """Truth: each blob under another category than the one that its colour leaves as."""
    cfg = config("DATASETS.CLASS_MATCH", "any")
    found = evaluate(reference, tmp_path / "first", cfg)
    assert found is not None
    entries = [e for e in json.loads(found.path.read_text()) if e["score"] > 0.5]
    assert {entry["category_id"] for entry in entries} == {10}
    for number, entry in enumerate(entries):
        entry["category_id"] = (20, 30)[number % 2]
    (tmp_path / "best.json").write_text(json.dumps(entries))
    annotate(reference, tmp_path / "best.json")
    scored = evaluate(reference, tmp_path / "second", cfg)
    assert scored is not None
    assert scored.numbers["tube_mask/AP"] == pytest.approx(1.0)


def test_a_broken_video_is_fatal_or_left_out_by_config(
    reference: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "images" / "v1" / "00002.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(VideoError, match=r"v1/00002\.png"):
        evaluate(reference, tmp_path / "strict")
    assert sorted(p.name for p in (tmp_path / "strict" / "videos").iterdir()) == ["7.json"]
    found = evaluate(reference, tmp_path / "mild", config("TEST.SKIP_BROKEN_VIDEOS", "true"))
    assert found is not None
    assert found.skipped == (8,)
    assert "video 8 is left out" in caplog.text
    assert "00002.png" in caplog.text
    entries = json.loads(found.path.read_text())
    assert {entry["video_id"] for entry in entries} == {7, 9}


def test_no_entry_at_all_is_still_a_list(tmp_path: Path) -> None:
    store = ResultFolder(tmp_path / "x")
    store.claim("a")
    store.path(1).write_text("[\n]\n")
    assert store.join([1]) == 0
    assert json.loads(store.results.read_text()) == []


def test_titles_of_sets_never_collide() -> None:
    names = ["ovis_val", "a/val.json@x", "b/val.json@y"]
    assert list(set_titles(names).values()) == ["ovis_val", "val", "val_2"]
    names = ["a/val_2.json@x", "b/val.json@y", "c/val.json@z"]
    assert list(set_titles(names).values()) == ["val_2", "val", "val_3"]


def test_sets_without_annotations_are_not_scored(reference: str) -> None:
    assert annotation_file(list(load_dataset(reference))) is None
    assert annotation_file([]) is None


IMAGES = ("TEST.METRICS", "[image_mask,image_box]")


@pytest.fixture
def coco(tmp_path: Path) -> str:
    """Three images: a red and a green blob, a red one, a red one that nobody annotated."""
    rows: list[dict[str, Any]] = []
    (tmp_path / "stills").mkdir()
    for k in range(3):
        frame = blob_video(3, SIZE, blobs=1 if k else 2)[k].numpy()
        write_png(tmp_path / "stills" / f"{k}.png", frame)
        colours = ((255, 0, 0), (0, 255, 0)) if k < 2 else ()
        for g, colour in enumerate(colours):
            mask = np.ascontiguousarray((frame == colour).all(-1))
            if mask.any():
                rows.append(
                    {
                        "id": len(rows) + 1,
                        "image_id": 40 + k,
                        "category_id": 10 * (g + 1),
                        "iscrowd": 0,
                        "segmentation": rle.encode(mask),
                        "bbox": list(rle.to_box(rle.encode(mask))),
                        "area": int(mask.sum()),
                    }
                )
    size = {"height": SIZE[0], "width": SIZE[1]}
    images = [{"id": 40 + k, "file_name": f"{k}.png"} | size for k in range(3)]
    categories = [{"id": c, "name": n} for c, n in ((10, "red"), (20, "green"), (30, "blue"))]
    path = tmp_path / "instances.json"
    content = {"images": images, "categories": categories, "annotations": rows}
    path.write_text(json.dumps(content))
    return f"{path}@{tmp_path / 'stills'}"


def test_images_are_scored_those_without_objects_too(coco: str, tmp_path: Path) -> None:
    model = BlobFrameModel()
    found = evaluate(coco, tmp_path / "run", config(*IMAGES), model)
    assert found is not None
    entries = json.loads(found.path.read_text())
    assert {entry["image_id"] for entry in entries} == {40, 41, 42}
    assert set(entries[0]) == {"image_id", "category_id", "score", "segmentation", "bbox"}
    # the blob of the third image is false
    assert 0.7 < found.numbers["image_mask/AP50"] < 1
    assert found.numbers["image_box/AP"] < 0.01, "its boxes are made up"
    seen = len(model.calls)
    again = evaluate(coco, tmp_path / "run", config(*IMAGES), model)
    assert again is not None
    assert (again.numbers, len(model.calls)) == (found.numbers, seen), "nothing is computed again"


def test_networks_without_boxes_have_mask_scores_alone(coco: str, tmp_path: Path) -> None:
    model = BlobFrameModel("embedding_hungarian")
    found = evaluate(coco, tmp_path / "run", config(*IMAGES), model)
    assert found is not None
    assert {name.split("/")[0] for name in found.numbers} == {"image_mask"}


def test_images_ask_for_networks_of_frames_and_metrics_of_images(coco: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="CountedModel finds objects in clips; images are scored"):
        evaluate(coco, tmp_path / "a", config(*IMAGES))
    with pytest.raises(ConfigError, match="'tube_mask', a metric of videos"):
        evaluate(coco, tmp_path / "b", config(), BlobFrameModel())


def test_videos_ask_for_metrics_of_videos(reference: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'image_mask', a metric of images; videos are scored by"):
        evaluate(reference, tmp_path / "a", config(*IMAGES))


def test_a_damaged_image_is_left_out(
    coco: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "stills/0.png").write_bytes(b"\x89PNG broken")
    cfg = config(*IMAGES, "TEST.SKIP_BROKEN_VIDEOS", "true")
    found = evaluate(coco, tmp_path / "run", cfg, BlobFrameModel())
    assert found is not None
    assert found.skipped == (40,)
    assert "video 40 is left out" in caplog.text
