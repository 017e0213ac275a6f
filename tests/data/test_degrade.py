import json

import cv2
import numpy as np
import pytest

from cocoapi_hq.io import rle
from vmt.cli.main import main
from vmt.data.degrade import Coarseness, degrade_tube
from vmt.data.names import KINDS
from vmt.utils.errors import ConfigError


def _disks(T=4, size=160, radius=40):
    y, x = np.mgrid[:size, :size]
    return np.stack([(y - 80) ** 2 + (x - 70 - 3 * t) ** 2 <= radius**2 for t in range(T)])


def _iou(a, b):
    return (a & b).sum() / (a | b).sum()


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_masks_and_null_frames_stay(kind):
    masks = _disks()
    masks[2] = False
    a, b = (degrade_tube(masks, kind, np.random.default_rng(3)) for _ in range(2))
    assert (a == b).all()
    assert not a[2].any()
    assert all((a[t] & masks[t]).any() for t in (0, 1, 3))
    assert (a != masks).any()


def test_halo_is_five_pixels_wide():
    mask = np.zeros((1, 60, 60), dtype=bool)
    mask[0, 20:40, 25:30] = True
    coarse = degrade_tube(mask, "halo", np.random.default_rng(0))[0]
    rows, columns = np.flatnonzero(coarse.any(1)), np.flatnonzero(coarse.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (15, 44, 20, 34)


def test_a_halo_can_be_too_narrow():
    mask = np.zeros((1, 60, 60), dtype=bool)
    mask[0, 10:50, 10:50] = True
    coarse = degrade_tube(mask, "halo", np.random.default_rng(0), amount=-3)[0]
    rows, columns = np.flatnonzero(coarse.any(1)), np.flatnonzero(coarse.any(0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (13, 46, 13, 46)


def _star():
    y, x = np.mgrid[:200, :200] - 100
    return (np.hypot(y, x) < 60 + 20 * np.cos(6 * np.arctan2(y, x)))[None]


@pytest.mark.parametrize("corners", [12, 20])
def test_a_polygon_has_few_corners_near_the_contour(corners):
    for seed in range(5):
        coarse = degrade_tube(_star(), "polygon", np.random.default_rng(seed), amount=corners)
        ring = max(cv2.findContours(coarse[0].astype(np.uint8), 0, 1)[0], key=len)
        few = cv2.approxPolyDP(ring, 1.5, True)
        assert 0.6 * corners <= len(few) <= 1.4 * corners
        assert 0.75 < _iou(coarse, _star()) < 0.99


def test_a_late_mask_is_that_of_an_earlier_frame():
    masks = _disks(T=5)
    masks[2] = False
    late = degrade_tube(masks, "lag", np.random.default_rng(0), amount=2)
    for t, source in enumerate((0, 1, None, 1, 4)):
        assert (late[t] == (masks[source] if source is not None else False)).all(), t


def test_holes_are_inside_and_specks_are_outside():
    masks = _disks(T=1)
    coarse = degrade_tube(masks, "holes", np.random.default_rng(1), amount=4)[0]
    assert 0.02 < (masks[0] & ~coarse).sum() / masks[0].sum() < 0.3
    assert (coarse & ~masks[0]).any()
    near = cv2.dilate(masks[0].astype(np.uint8), np.ones((101, 101), np.uint8)) > 0
    assert not (coarse & ~near).any()


def test_a_matte_is_cut_in_a_place_of_its_own_per_frame():
    masks = np.repeat(_star(), 6, 0)
    coarse = degrade_tube(masks, "matte", np.random.default_rng(0), amount=6)
    areas = coarse.sum((1, 2))
    assert areas.min() < masks[0].sum() < areas.max()
    assert len(set(areas.tolist())) > 3
    still = degrade_tube(masks, "matte", np.random.default_rng(0), amount=6, coherent=True)
    assert (still == still[0]).all()


def test_what_makes_training_masks_coarse():
    """Amounts are drawn from all of the range; "clean" leaves masks; mistakes name the key."""
    star, rng = _star(), np.random.default_rng(0)
    assert (Coarseness.parse("clean")(star, rng) == star).all()
    assert Coarseness.parse("halo") == Coarseness("halo", 5, 5)
    wider = Coarseness.parse("halo:-2:3")
    found = {int(wider(star, rng).sum()) for _ in range(60)}
    possible = {int(degrade_tube(star, "halo", rng, amount=k).sum()) for k in (-2, -1, 0, 1, 2, 3)}
    assert found == possible
    paper, jagged = Coarseness.parse("paper"), [0, 0]
    for seed in range(30):
        tube = paper(np.repeat(star, 2, 0), np.random.default_rng(seed))
        jagged[int((tube[0] != tube[1]).any())] += 1
    assert min(jagged) > 5, "some are the same in every frame, some are not"
    for text in ("blur", "halo:5", "halo:4:3", "halo:a:b", "paper:1:2", "clean:1:2", "lag:0:1"):
        with pytest.raises(ConfigError, match=r"INPUT\.DEGRADE"):
            Coarseness.parse(text)


def test_the_paper_kind_stays_near_its_target():
    overlaps = []
    for seed in range(20):
        masks = _disks(T=1)
        coarse = degrade_tube(masks, "paper", np.random.default_rng(seed))
        overlaps.append(_iou(masks, coarse))
    assert min(overlaps) > 0.6
    assert np.std(overlaps) > 0.02


def test_coherent_draws_move_with_the_object():
    kind, masks = "paper", _disks()
    # Not a seed of the pure dilation.
    seed = next(s for s in range(20) if np.random.default_rng(s).random() >= 0.3)
    still = degrade_tube(masks, kind, np.random.default_rng(seed), coherent=True)
    apart = degrade_tube(masks, kind, np.random.default_rng(seed))

    def change(tube):
        shifted = [np.roll(tube[t], -3 * t, axis=1) for t in range(len(tube))]
        return min(_iou(shifted[0], other) for other in shifted[1:])

    assert change(still) == 1.0
    assert change(apart) < 0.97


@pytest.mark.parametrize("kind", KINDS)
def test_one_pixel_objects_survive(kind):
    mask = np.zeros((1, 40, 40), dtype=bool)
    mask[0, 3, 5] = True
    for seed in range(5):
        assert degrade_tube(mask, kind, np.random.default_rng(seed)).any()


def test_the_stride_of_low_resolution(tmp_path, capsys):
    """Coarser is farther off, 1 changes nothing, and the command passes it on."""
    masks = _disks(T=1)
    wrong = []
    for stride in (1, 4, 8, 16):
        found = degrade_tube(masks, "low_res", np.random.default_rng(0), amount=stride)
        wrong.append(np.count_nonzero(found ^ masks))
    assert wrong[0] == 0 < wrong[1] < wrong[2] < wrong[3]
    before = _file(tmp_path / "in.json")
    arguments = ["degrade", "--annotations", str(tmp_path / "in.json"), "--kind", "low_res"]
    arguments += ["--output", str(tmp_path / "out.json"), "--amount"]
    assert main([*arguments, "0"]) == 2
    assert "--amount: 0 of low_res: pixels per cell" in capsys.readouterr().err
    assert main([*arguments, "1"]) == 0
    after = json.loads((tmp_path / "out.json").read_text())
    old, new = (x["annotations"][0]["segmentations"][0] for x in (before, after))
    assert (rle.decode(old) == rle.decode(new)).all()
    with pytest.raises(ValueError, match="from 1 on"):
        degrade_tube(masks, "low_res", np.random.default_rng(0), amount=0)
    with pytest.raises(ValueError, match="paper has no amount"):
        degrade_tube(masks, "paper", np.random.default_rng(0), amount=3)


def test_any_memory_order():
    masks = np.stack([np.asfortranarray(mask) for mask in _disks()])
    for mask in (masks, np.asfortranarray(masks)):
        found = degrade_tube(mask, "paper", np.random.default_rng(1))
        assert found.flags.c_contiguous
        assert (found == degrade_tube(_disks(), "paper", np.random.default_rng(1))).all()


def test_unknown_kind():
    with pytest.raises(ValueError, match="paper, halo, low_res"):
        degrade_tube(_disks(), "blur", np.random.default_rng(0))


def _file(path):
    masks = _disks(T=2)
    row = {"id": 7, "video_id": 1, "category_id": 1, "iscrowd": 0, "note": "kept"}
    row["segmentations"] = [rle.encode(masks[0]), None, rle.encode(masks[1])]
    crowd = row | {"id": 8, "iscrowd": 1}
    video = {"id": 1, "height": 160, "width": 160, "length": 3, "file_names": ["a", "b", "c"]}
    content = {"videos": [video], "annotations": [row, crowd], "categories": []}
    path.write_text(json.dumps(content))
    return content


def test_the_command_keeps_everything_but_masks(tmp_path, capsys):
    before = _file(tmp_path / "in.json")
    out = tmp_path / "out.json"
    arguments = ["degrade", "--annotations", str(tmp_path / "in.json"), "--output", str(out)]
    assert main([*arguments, "--kind", "halo"]) == 0
    assert "2 masks of 1 annotations; 1 crowd" in capsys.readouterr().out
    after = json.loads(out.read_text())
    row, crowd = after["annotations"]
    assert crowd == before["annotations"][1]
    assert row["note"] == "kept"
    assert row["segmentations"][1] is None
    assert row["areas"][0] == rle.area(row["segmentations"][0]) > _disks(T=1).sum()


def test_the_command_reads_coco_polygons(tmp_path):
    row = {"id": 1, "image_id": 4, "category_id": 1, "segmentation": [[10, 10, 40, 10, 40, 40]]}
    content = {"images": [{"id": 4, "height": 60, "width": 60}], "annotations": [row]}
    (tmp_path / "in.json").write_text(json.dumps(content))
    out = tmp_path / "out.json"
    assert main(["degrade", "--annotations", str(tmp_path / "in.json"), "--output", str(out)]) == 0
    after = json.loads(out.read_text())["annotations"][0]
    assert rle.area(after["segmentation"]) == after["area"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "no list 'annotations'"),
        ("{", "in.json"),
        ('{"annotations": [3]}', r"annotations[0]: is 3"),
        (
            '{"annotations": [{"id": 1, "segmentation": {"size": [4, 4], "counts": "0"}}]}',
            "in.json",
        ),
    ],
)
def test_bad_files_end_in_one_sentence(tmp_path, capsys, content, message):
    source, out = tmp_path / "in.json", tmp_path / "out.json"
    source.write_text(content)
    assert main(["degrade", "--annotations", str(source), "--output", str(out)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_the_input_is_never_overwritten(tmp_path, capsys):
    _file(tmp_path / "in.json")
    path = str(tmp_path / "in.json")
    assert main(["degrade", "--annotations", path, "--output", path]) == 2
    assert "would overwrite" in capsys.readouterr().err
