"""Rings that enclose nothing are named, and they alone are missing in the mended copy."""

from cocoapi_hq.check.files import check_annotations

SQUARE = [1, 1, 4, 1, 4, 3, 1, 3]  # 3 x 2 pixels
LINE = [3, 3, 6, 6, 9, 9]


def _file(*masks):
    video = {"id": 1, "height": 10, "width": 10, "length": len(masks)}
    video["file_names"] = [f"v/{t}.jpg" for t in range(len(masks))]
    row = {"id": 1, "video_id": 1, "category_id": 1, "iscrowd": 0, "segmentations": list(masks)}
    row["areas"] = [6 if mask and SQUARE in (mask, *mask) else None for mask in masks]
    categories = [{"id": 1, "name": "dog"}]
    return {"videos": [video], "annotations": [row], "categories": categories}


def test_rings_that_enclose_nothing():
    report = check_annotations(_file([SQUARE, [3, 3, 12, 12]], [LINE, SQUARE], [LINE], [SQUARE]))
    found = [(d.path.removeprefix("annotations[0]."), d.problem, d.fix) for d in report.defects]
    left_out = "left out of the copy"
    nothing = "a ring that encloses nothing"
    assert found == [
        ("segmentations[0][1]", nothing, left_out),
        ("segmentations[1][0]", nothing, left_out),
        ("segmentations[2][0]", nothing, "null in the copy"),
    ]
    (row,) = report.mended["annotations"]
    assert row["segmentations"] == [[SQUARE], [SQUARE], None, [SQUARE]]
    assert row["areas"] == [6, 6, None, 6]
    assert not check_annotations(report.mended).defects


def test_the_numbers_of_a_ring():
    report = check_annotations(_file(SQUARE, [SQUARE]))
    assert [(d.path, d.problem) for d in report.defects] == [
        ("annotations[0].segmentations[0]", "the numbers of a ring")
    ]
    assert report.mended["annotations"][0]["segmentations"] == [[SQUARE], [SQUARE]]
    assert not check_annotations(report.mended).defects


def test_a_mask_beside_the_frame_keeps_its_numbers():
    """Its area and box are those of the size that it was drawn on; zeros would hide the fault."""
    beside = [21, 1, 24, 1, 24, 3, 21, 3]
    data = _file([SQUARE], [beside])
    data["annotations"][0]["areas"] = [6, 6]
    data["annotations"][0]["bboxes"] = [[1, 1, 3, 2], [21, 1, 3, 2]]
    report = check_annotations(data)
    (defect,) = report.defects
    assert defect.path == "annotations[0].segmentations[1]"
    assert defect.problem == "lies outside the frame of 10x10 pixels"
    assert report.mended["annotations"] == data["annotations"]
