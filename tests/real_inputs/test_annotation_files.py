"""JSON files of real users' tools: polygons, run lengths, names of files, encodings, crowds."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from tests.real_inputs.conftest import Vmt
from tests.real_inputs.disk import decode, disk, iou, read_json

REFINE = ("--images", "frames", "--output")


def masks_of(path: str) -> list[np.ndarray | None]:
    """The masks of the only track of a file."""
    data = read_json(path)
    (row,) = data["annotations"] if isinstance(data, dict) else data
    return [decode(mask) if mask else None for mask in row["segmentations"]]


def assert_disks(path: str, absent: tuple[int, ...] = ()) -> None:
    for t, mask in enumerate(masks_of(path)):
        if t in absent:
            assert mask is None, t
        else:
            assert mask is not None, t
            assert iou(mask, disk(t)) > 0.9, t


def drawn(shapes: list[dict]) -> np.ndarray:
    """Polygons of a labelme file, painted by Pillow."""
    image = Image.new("1", (96, 64))
    for shape in shapes:
        ImageDraw.Draw(image).polygon([(x, y) for x, y in shape["points"]], fill=1)
    return np.array(image)


def test_11_labelme_background_hole(vmt: Vmt) -> None:
    said = vmt("refine", "--masks", "masks", *REFINE, "out").said
    assert "3 shapes labelled __ignore__ are no objects and are left alone." in said
    (video,) = read_json("out.changes.json")["videos"]
    assert [row["tracklet"] for row in video["tracklets"]] == ["wheel"]
    for t in range(3):
        before, after = read_json(f"masks/{t:05d}.json"), read_json(f"out/{t:05d}.json")
        ignored = [[s for s in d["shapes"] if s["label"] == "__ignore__"] for d in (before, after)]
        assert ignored[0] == ignored[1]


def test_13_labelme_unicode_gaps_groups(vmt: Vmt) -> None:
    said = vmt("refine", "--masks", "müsken", "--images", "bilder été", "--output", "out").said
    assert "4 of 6 frames have no polygon file" in said
    assert sorted(path.name for path in Path("out").iterdir()) == ["кадр 0.json", "кадр 4.json"]
    for t in (0, 4):
        shapes = read_json(f"out/кадр {t}.json")["shapes"]
        assert {(shape["label"], shape["group_id"]) for shape in shapes} == {("мяч", 1)}
        assert iou(drawn(shapes), disk(t)) > 0.85


def test_14_counts_bytes_repr(vmt: Vmt) -> None:
    why = {"repr": "are bytes that Python's str() turned into text", "newline": "with white space"}
    fix = {"repr": "write counts.decode()", "newline": "strip it."}
    for name in why:
        refused = vmt("refine", "--masks", f"{name}.json", *REFINE, "o.json").sentence
        assert f"{name}.json: annotations[0].segmentations[0]: counts" in refused
        assert why[name] in refused
        assert fix[name] in refused
        vmt("check-annotations", f"{name}.json", "--fix", f"{name} fixed.json")
        broken = read_json(f"{name}.json")["annotations"][0]["segmentations"]
        for mask, old in zip(masks_of(f"{name} fixed.json"), broken, strict=True):
            text = old["counts"].strip().removeprefix("b'").removesuffix("'")
            text = text.replace("\\\\", "\\")
            assert (mask == decode({"size": [64, 96], "counts": text})).all()


@pytest.mark.parametrize(
    "name", ["null", "list", "dict", "text", "empty_counts", "nested", "background"]
)
def test_16_absent_spellings(vmt: Vmt, name: str) -> None:
    """One meaning in every command: the object is not in frame 2."""
    assert "5 masks refined" in vmt("refine", "--masks", f"{name}.json", *REFINE, "o.json").said
    if name == "background":  # run lengths without a pixel are left as they are
        mask = masks_of("o.json")[2]
        assert mask is not None
        assert not mask.any()
    else:
        assert_disks("o.json", absent=(2,))
    options = ("--metric", "tube_mask", "--resamples", 0, "--json", "ap.json")
    vmt("eval", "--gt", f"{name}.json", "--results", "results.json", *options)
    # The result has a mask in frame 2, too: five of six of its pixels lie in the track.
    areas = [int(mask.sum()) for mask in masks_of("results.json") if mask is not None]
    overlap = 1 - areas[2] / sum(areas)
    thresholds = sum(overlap >= 0.5 + 0.05 * k for k in range(10))
    assert read_json("ap.json")["tube_mask"]["AP"] == pytest.approx(thresholds / 10)
    checked = vmt("check-annotations", f"{name}.json", "--images", "frames").out
    odd = name not in ("null", "background")
    assert ("an odd way to say that there is no mask. Fix: null." in checked) is odd
    assert f"{int(odd)} defects" in checked


def test_17_polygons_in_ytvis(vmt: Vmt) -> None:
    for name in ("one", "parts", "inside", "four", "flat"):
        vmt("refine", "--masks", f"{name}.json", *REFINE, f"{name} out.json")
        assert_disks(f"{name} out.json")
    refused = vmt("refine", "--masks", "outside.json", *REFINE, "o.json").sentence
    assert "annotations[0].segmentations[0] lies outside the frame of 96x64 pixels" in refused
    checked = vmt("check-annotations", "outside.json").out
    assert checked.count("lies outside the frame of 96x64 pixels") == 6
    assert "6 defects" in checked
    checked = vmt("check-annotations", "four.json").out
    assert "segmentations[0][1] = [3, 3, 12, 12]: a ring that encloses nothing." in checked
    vmt("check-annotations", "four.json", "--fix", "fixed.json")
    for kept, ring in zip(
        read_json("fixed.json")["annotations"][0]["segmentations"],
        read_json("one.json")["annotations"][0]["segmentations"],
        strict=True,
    ):
        assert kept == ring, "the ring goes, the mask stays"


def test_20_segmentation_singular(vmt: Vmt) -> None:
    refused = vmt("refine", "--masks", "s.json", *REFINE, "o.json").sentence
    assert "s.json: is none of the known kinds of mask file." in refused
    assert "has 'segmentation'" in vmt("eval", "--gt", "gt.json", "--results", "r.json").sentence
    config = Path(__file__).resolve().parents[2] / "configs/quick/seqformer_tiny.yaml"
    refused = vmt(
        *("train", "--config-file", config, "--train", "s.json", "--train-images", "frames"),
        *("--output", "t", "SOLVER.MAX_STEPS", 1, "DATALOADER.NUM_WORKERS", 0),
    ).sentence
    assert "annotations[0].segmentations is None" in refused
    assert "vmt check-annotations lists what is wrong" in refused
    checked = vmt("check-annotations", "s.json", "--fix", "fixed.json").out
    assert "the masks of a video stand under 'segmentations'. Fix: renamed." in checked
    vmt("refine", "--masks", "fixed.json", *REFINE, "o.json")
    assert_disks("o.json")


def test_22_file_names_foreign(vmt: Vmt) -> None:
    for name in ("backslash", "dotslash", "percent"):
        vmt("refine", "--masks", f"{name}.json", *REFINE, f"{name} out.json")
        assert_disks(f"{name} out.json")
        checked = vmt("check-annotations", f"{name}.json", "--images", "frames")
        assert "0 defects" in checked.said
    why = {
        "absolute": "the name is a path of another computer: cut '/data/annotator/project/' off",
        "url": "the name is a web address: download the images",
    }
    for name, said in why.items():
        assert said in vmt("refine", "--masks", f"{name}.json", *REFINE, "o.json").sentence
        checked = vmt("check-annotations", f"{name}.json", "--images", "frames")
        assert said in checked.out
        assert checked.status == 1


def test_23_json_dialects(vmt: Vmt) -> None:
    score = ("--results", "r.json", "--metric", "tube_mask", "--resamples", 0, "--json", "ap")
    for name in ("bom.json", "utf16.json", "x.json.gz", "gz_named.json"):
        assert "0 defects" in vmt("check-annotations", name).said
        vmt("eval", "--gt", name, *score)
        assert read_json("ap")["tube_mask"]["AP"] == pytest.approx(1)
        Path("ap").unlink()
    for name in ("utf16.json", "x.json.gz"):
        vmt("refine", "--masks", name, *REFINE, "o.json")
        assert_disks("o.json")
        Path("o.json").unlink()

    refused = vmt("eval", "--gt", "nan.json", *score).sentence
    assert "annotations[0] (id=1).areas[1] is nan; give pixels or null" in refused
    assert "areas[1] = nan" in vmt("check-annotations", "nan.json", "--fix", "fixed.json").out
    area = read_json("fixed.json")["annotations"][0]["areas"][1]
    mask = masks_of("fixed.json")[1]
    assert mask is not None
    assert area == mask.sum()

    commands = (("refine", "--masks"), ("check-annotations",), ("eval", *score, "--gt"))
    for name, why in (
        ("comments.json", "it has a comment at line 1, column 1; remove all comments."),
        ("lines.json", "holds one JSON value per line (JSON lines); make one list of them"),
    ):
        for command in commands:
            rest = (*REFINE, "o.json") if command[0] == "refine" else ()
            assert why in vmt(*command, name, *rest).sentence


def test_26_masks_exported_as_crowd(vmt: Vmt) -> None:
    why = "all 6 {} are marked as crowd (iscrowd 1)"
    refused = vmt("refine", "--masks", "coco.json", *REFINE, "o.json").sentence
    assert why.format("masks") in refused
    assert "set iscrowd to 0 where a mask is one object." in refused
    refused = vmt("convert-annotations", "video.json", *REFINE, "o.json").sentence
    assert why.format("annotations") in refused
    assert not Path("o.json").exists()


def test_27_coco_video_variants(vmt: Vmt) -> None:
    rows = {row["image_id"]: row for row in read_json("missing.json")["annotations"]}
    for name in ("empty", "missing", "text_ids"):
        vmt("convert-annotations", f"{name}.json", *REFINE, f"{name} out.json")
        masks = masks_of(f"{name} out.json")
        gone = () if name == "text_ids" else (3,)
        for t, mask in enumerate(masks):
            assert (mask is None) is (t in gone)
            if mask is not None and name != "text_ids":
                (ring,) = rows[t + 1]["segmentation"]
                points = [*zip(ring[::2], ring[1::2], strict=True)]
                assert iou(mask, drawn([{"points": points}])) > 0.9
    refused = vmt("convert-annotations", "class_change.json", *REFINE, "o.json").sentence
    assert "track 1 of video 1 is ball in 3 frames and disk in 3 frames" in refused
    refused = vmt("convert-annotations", "two_rows.json", *REFINE, "o.json").sentence
    assert "annotations[6]: track 1 has two masks in one image; unite them" in refused


def test_76_labelme_order_swapped_steady(vmt: Vmt) -> None:
    """The same masks whatever the order in which the shapes of a frame were drawn."""
    for folder in ("sorted", "swapped"):
        vmt("refine", "--masks", folder, *REFINE, f"{folder} out")
    orders = set()
    for t in range(6):
        halves = []
        for folder in ("sorted", "swapped"):
            shapes = read_json(f"{folder} out/{t:05d}.json")["shapes"]
            top = [s for s in shapes if np.mean([y for _, y in s["points"]]) < 32]
            bottom = [s for s in shapes if s not in top]
            halves.append((drawn(top), drawn(bottom)))
            if folder == "swapped":
                orders.add(shapes[0] in top)
        for first, second in zip(*halves, strict=True):
            assert first.any()
            assert iou(first, second) > 0.9, t
    assert orders == {True, False}, "the case is what it says"


def test_78_results_without_annotations(vmt: Vmt) -> None:
    for name in ("byid", "byname", "noscore"):
        vmt("refine", "--masks", f"{name}.json", *REFINE, f"{name} out.json")
        assert_disks(f"{name} out.json")
        assert ("score" in read_json(f"{name} out.json")[0]) is (name != "noscore")
    assert "frames" in vmt("refine", "--masks", "longer.json", *REFINE, "o.json").sentence
    said = vmt("refine", "--masks", "coco.json", *REFINE, "o.json").sentence
    assert "coco.json: names images by their ids alone" in said
    assert "with --annotations" in said
    assert not Path("o.json").exists()
    shutil.rmtree("frames")
    assert "frames" in vmt("refine", "--masks", "byid.json", *REFINE, "o.json").sentence
