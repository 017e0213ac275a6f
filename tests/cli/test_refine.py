"""``vmt refine`` from the command line to the files, with a refiner that shaves a pixel off."""

import json
import re
from collections import Counter, deque
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import binary_erosion

from cocoapi_hq.io import rle
from vmt.apps.refine import job
from vmt.apps.refine.options import RefineOptions
from vmt.apps.refine.work_folder import FinishedVideo
from vmt.cli.main import main
from vmt.inference.mask_refiner import MaskRefiner, RefinedFrame
from vmt.inference.video_writer import VideoWriter
from vmt.modeling.video_model import RefinedTube
from vmt.ops.crops import Place

H, W, T = 32, 48, 6
LOAD_REFINER = job.load_refiner


class Shave:
    """Takes the outermost pixels off; rejects what would vanish. Looks two frames ahead."""

    def __init__(self) -> None:
        self.videos: list[list[int]] = []
        self.fail_at: int | None = None

    def stream(self, frames, masks, *, accept, window):
        self.videos.append([])
        held: deque = deque()
        for frame, mask in zip(frames, masks, strict=False):
            if self.fail_at == len(self.videos):
                raise RuntimeError("power cut")
            self.videos[-1].append(int(frame[0, 0, 0]))
            held.append(mask)
            if len(held) > 2:
                yield self._refine(held.popleft())
        yield from map(self._refine, held)

    def _refine(self, masks):
        new = np.stack([shaved(mask) for mask in masks]) if len(masks) else masks
        rejected = masks.any((1, 2)) & ~new.any((1, 2))
        new[rejected] = masks[rejected]
        confidence = np.linspace(0.9, 0.8, len(masks))
        levels = np.where((new != masks).any(0), 128, 255).astype(np.uint8)
        return RefinedFrame(new, confidence, (new != masks).sum((1, 2)), rejected, levels)


def shaved(mask):
    return binary_erosion(mask)


pytestmark = pytest.mark.usefixtures("refiner")


def run(masks: Path, images: Path, output: Path, *more: str) -> int:
    where = "--images" if images.is_dir() or not images.exists() else "--video"
    argv = ["refine", "--masks", str(masks), where, str(images), "--output", str(output)]
    return main([*argv, *more])


def write_frames(folder: Path, count: int = T, size: tuple[int, int] = (H, W)) -> list[str]:
    """The first pixel of a frame is its index, ten times."""
    folder.mkdir(parents=True)
    for t in range(count):
        frame = np.full((*size, 3), 128, np.uint8)
        frame[0, 0] = 10 * t
        Image.fromarray(frame).save(folder / f"{t:05d}.png")
    return [f"{folder.name}/{t:05d}.png" for t in range(count)]


def write_clip(path: Path, count: int = T) -> Path:
    with VideoWriter(path, 10.0, (H, W)) as writer:
        for t in range(count):
            writer.write(np.full((H, W, 3), 10 * t, np.uint8))
    return path


def box(y: int, x: int, h: int = 8, w: int = 10) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y : y + h, x : x + w] = True
    return mask


def track(y: int, x: int) -> list:
    """A box that moves to the right, hidden in frame 2."""
    return [None if t == 2 else rle.encode(box(y, x + t)) for t in range(T)]


def annotation(identity: int, video: int, masks: list, **more) -> dict:
    row = {"id": identity, "video_id": video, "category_id": 1, "iscrowd": 0, "score_note": 1.50}
    row["segmentations"] = masks
    row["bboxes"] = [m and [0.0, 0.0, 1.0, 1.0] for m in masks]
    row["areas"] = [m and rle.area(m) for m in masks]
    return row | more


def write_ytvis(root: Path, videos: int = 2) -> tuple[Path, dict]:
    rows, annotations = [], []
    for v in range(1, videos + 1):
        names = write_frames(root / "images" / f"v{v}")
        rows.append({"id": v, "height": H, "width": W, "length": T, "file_names": names})
        annotations.append(annotation(10 * v, v, track(4, 5)))
        annotations.append(annotation(10 * v + 1, v, track(18, 8), segmentations_refined=[None]))
    annotations.append(annotation(90, 1, track(2, 2), iscrowd=1))
    tiny = [rle.encode(box(3, 3, 1, 1)), rle.encode(box(0, 0, 0, 0)), *[None] * (T - 2)]
    annotations.append(annotation(91, videos, tiny))
    categories = [{"id": 1, "name": "dog"}]
    content = {"info": "é", "videos": rows, "annotations": annotations, "categories": categories}
    path = root / "masks.json"
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False))
    return path, content


def expected(masks: list) -> list:
    return [m and rle.encode(shaved(rle.decode(m))) for m in masks]


def test_ytvis_annotations(tmp_path: Path, refiner: Shave, capsys) -> None:
    path, before = write_ytvis(tmp_path)
    out, report = tmp_path / "new" / "out.json", tmp_path / "r.html"
    assert run(path, tmp_path / "images", out, "--report", str(report)) == 0
    after = json.loads(out.read_text())
    assert {key: after[key] for key in before if key != "annotations"} == {
        key: before[key] for key in before if key != "annotations"
    }
    for old, new in zip(before["annotations"], after["annotations"], strict=True):
        if old["id"] in (90, 91):  # a crowd; a single pixel and an empty mask
            assert new == old
            continue
        masks = expected(old["segmentations"])
        assert new["segmentations"] == masks
        assert new["areas"] == [m and rle.area(m) for m in masks]
        assert new["bboxes"] == [m and list(rle.to_box(m)) for m in masks]
        kept = {"segmentations", "bboxes", "areas"}
        assert {k: new[k] for k in new if k not in kept} == {
            k: old[k] for k in old if k not in kept
        }
    # What does not change is copied byte by byte.
    text, new_text = path.read_text(), out.read_text()
    assert new_text[: new_text.index('"annotations"')] == text[: text.index('"annotations"')]
    crowd = text.index('"id": 90')
    assert text[crowd : text.index('"id": 91')] in new_text
    assert refiner.videos == [[0, 10, 20, 30, 40, 50]] * 2
    log = json.loads((out.parent / "out.json.changes.json").read_text())
    first, _, last = (log["videos"][k]["tracklets"] for k in (0, 1, 1))
    assert first[0]["tracklet"] == "dog 10"
    assert first[0]["changed_px"] == 5 * (80 - 48)
    assert first[0]["mean_confidence"] == 0.9
    assert last[2]["rejected_frames"] == ["00000"]
    assert not out.with_name("out.json.part").exists()
    page = report.read_text()
    assert "http" not in page
    assert page.count("<figure>") == 0  # the boxes are too small to be shown
    printed = capsys.readouterr().out
    assert "21 masks refined" in printed
    assert "1 result rejected" in printed


def test_what_became_of_a_video_is_read_three_times_at_most(tmp_path: Path, monkeypatch) -> None:
    """For the summary, the output and the numbers of the report."""
    reads: Counter[str] = Counter()
    read = FinishedVideo.__iter__

    def count(video: FinishedVideo):
        reads[video.path.name] += 1
        return read(video)

    monkeypatch.setattr(FinishedVideo, "__iter__", count)
    path, _ = write_ytvis(tmp_path)
    assert run(path, tmp_path / "images", tmp_path / "o.json") == 0
    assert reads == {"video_1.jsonl": 2, "video_2.jsonl": 2}
    reads.clear()
    more = ("--report", str(tmp_path / "r.html"))
    assert run(path, tmp_path / "images", tmp_path / "p.json", *more) == 0
    assert reads == {"video_1.jsonl": 3, "video_2.jsonl": 3}


class ShavingNetwork:
    """What ``MaskRefiner`` needs of a network."""

    device = torch.device("cpu")

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def left_undone(self) -> str:
        return ""

    votes_reach = 0

    def refine_tubes(
        self, frames: torch.Tensor, coarse: torch.Tensor, votes: torch.Tensor | None = None
    ) -> Iterator[RefinedTube]:
        self.lengths.append(len(frames))
        whole = Place(slice(0, H), slice(0, W), slice(0, H), slice(0, W))
        for n, masks in enumerate(coarse):
            shown = masks.flatten(1).any(1).nonzero()[:, 0].tolist()
            if shown:
                inside = torch.stack([torch.from_numpy(shaved(masks[t].numpy())) for t in shown])
                seen = torch.ones(inside.shape, dtype=torch.bool)
                yield RefinedTube(n, shown, inside * 0.9 + 0.05, seen, [whole] * len(shown))


@pytest.mark.parametrize("window", [1, 3, 8])
def test_windows_of_the_real_refiner(tmp_path: Path, monkeypatch, window: int) -> None:
    network = ShavingNetwork()
    monkeypatch.setattr(job, "load_refiner", lambda options: MaskRefiner(network))
    path, before = write_ytvis(tmp_path, videos=1)
    out = tmp_path / "o.json"
    job.refine_masks(RefineOptions(path, out, tmp_path / "images", window=window), say=print)
    # Windows share one frame; a video of six frames is one window of eight.
    assert network.lengths == {1: [1] * 6, 3: [3, 3, 3], 8: [6]}[window]
    after = json.loads(out.read_text())["annotations"]
    for old, new in zip(before["annotations"][:2], after[:2], strict=True):
        assert new["segmentations"] == expected(old["segmentations"])
    assert after[2:] == before["annotations"][2:]


def test_weights_without_a_config(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(job, "load_refiner", LOAD_REFINER)
    path, _ = write_ytvis(tmp_path, videos=1)
    images, out = tmp_path / "images", tmp_path / "o.json"
    assert run(path, images, out, "--weights", "lowres", "--device", "cpu") == 2
    assert "lowres: its config must lie beside it" in (line := one_line(capsys))
    assert "Weights of the package: mask_refiner." in line


def test_another_list_of_masks(tmp_path: Path) -> None:
    path, before = write_ytvis(tmp_path, videos=1)
    rows = before["annotations"]
    for row in rows:
        row["fine"] = row["segmentations"]
    path.write_text(json.dumps(before))
    assert run(path, tmp_path / "images", tmp_path / "o.json", "--mask-key", "fine") == 0
    after = json.loads((tmp_path / "o.json").read_text())["annotations"][0]
    assert after["fine"] == expected(rows[0]["fine"])
    assert {k: after[k] for k in after if k != "fine"} == {
        k: rows[0][k] for k in rows[0] if k != "fine"
    }


def test_results_with_their_annotation_file(tmp_path: Path) -> None:
    path, _ = write_ytvis(tmp_path)
    rows = [
        {"video_id": v, "score": s, "category_id": 1, "segmentations": track(4, 5)}
        for v, s in ((2, 0.9), (1, 0.8), (1, 0.1))
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows, separators=(",", ":")))
    options = ("--annotations", str(path), "--min-score", "0.5")
    assert run(results, tmp_path / "images", tmp_path / "o.json", *options) == 0
    after = json.loads((tmp_path / "o.json").read_text())
    assert after[2] == rows[2]
    assert [row["segmentations"] for row in after[:2]] == [expected(track(4, 5))] * 2
    assert ", " not in (tmp_path / "o.json").read_text()


@pytest.mark.parametrize("form", ["video", "frames", "named"])
def test_results_alone(tmp_path: Path, form: str) -> None:
    row = {"video_id": 1, "score": 0.9, "category_id": 1, "segmentations": track(4, 5)}
    rows = [row, row | {"video_id": 2, "video_name": "b"}] if form == "named" else [row]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows))
    if form == "video":
        images = write_clip(tmp_path / "a.mp4")
    else:
        images = tmp_path / "images"
        write_frames(images if form == "frames" else images / "1")
        if form == "named":
            write_frames(images / "b")
    assert run(results, images, tmp_path / "o.json") == 0
    after = json.loads((tmp_path / "o.json").read_text())
    assert [r["segmentations"] for r in after] == [expected(track(4, 5))] * len(rows)


@pytest.mark.parametrize("listed", [True, False])
def test_results_that_only_name_their_videos(tmp_path: Path, listed: bool, capsys) -> None:
    path, _ = write_ytvis(tmp_path)
    rows = [
        {"video_name": name, "score": 0.9, "category_id": 1, "segmentations": track(y, 5)}
        for name, y in (("v2", 4), ("v1", 18), ("v2", 16))
    ]
    results = tmp_path / "results.json"
    results.write_text(json.dumps(rows))
    options = ("--annotations", str(path)) if listed else ()
    assert run(results, tmp_path / "images", tmp_path / "o.json", *options) == 0
    assert "YouTube-VIS results, 2 videos" in capsys.readouterr().out
    after = json.loads((tmp_path / "o.json").read_text())
    wanted = [expected(row["segmentations"]) for row in rows]
    assert [row["segmentations"] for row in after] == wanted
    rows[0]["video_name"] = "v9"
    results.write_text(json.dumps(rows))
    assert run(results, tmp_path / "images", tmp_path / "o.json", *options) == 2
    said = "is of the video 'v9', but" if listed else "v9: no such folder"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("form", ["coco", "ytvis"])
def test_crowds_are_counted_and_a_file_of_crowds_alone_is_refused(
    tmp_path: Path, form: str, capsys
) -> None:
    if form == "ytvis":
        path, content = write_ytvis(tmp_path, videos=1)
    else:
        images = [{"id": 1, "file_name": "a/00000.png", "height": H, "width": W}]
        write_frames(tmp_path / "images" / "a", 1)
        rows = [
            {"id": k, "image_id": 1, "category_id": 1, "segmentation": m, "iscrowd": int(k == 2)}
            for k, m in ((1, rle.encode(box(4, 5))), (2, rle.encode(box(9, 9))))
        ]
        path, content = tmp_path / "c.json", {"images": images, "annotations": rows}
        content["categories"] = []
        path.write_text(json.dumps(content))
    assert run(path, tmp_path / "images", tmp_path / "o.json") == 0
    assert "1 crowd regions (iscrowd) are left alone" in capsys.readouterr().out
    for row in content["annotations"]:
        row["iscrowd"] = 1
    path.write_text(json.dumps(content))
    assert run(path, tmp_path / "images", tmp_path / "p.json") == 2
    count = len(content["annotations"])
    assert f"all {count} masks are marked as crowd (iscrowd 1)" in one_line(capsys)
    assert not (tmp_path / "p.json").exists()


RING = [5, 4, 15, 4, 15, 12, 5, 12]


@pytest.mark.parametrize(
    ("mask", "said"),
    [
        ([RING, [3, 3, 12, 12]], r"segmentations\[0\]\[1\]\."),
        ([[9, 9, 9, 9, 9, 9], RING], r"segmentations\[0\]\[0\]\."),
        (RING, ""),
        ([RING], ""),
    ],
)
def test_rings_of_a_json_file(tmp_path: Path, mask: list, said: str, capsys) -> None:
    path, content = write_ytvis(tmp_path, videos=1)
    content["annotations"][0]["segmentations"] = [mask, [], None, None, None, None]
    path.write_text(json.dumps(content))
    assert run(path, tmp_path / "images", tmp_path / "o.json") == 0
    after = json.loads((tmp_path / "o.json").read_text())["annotations"][0]["segmentations"]
    # null is how a row that is rewritten says absent: the official evaluators refuse other ways
    assert after == [rle.encode(shaved(box(4, 5))), None, None, None, None, None]
    out = capsys.readouterr().out
    assert ("1 ring of fewer than three points or without area encloses nothing" in out) == bool(
        said
    )
    assert re.search(said, out)
    content["annotations"][0]["segmentations"][0] = [[v + 90 for v in RING]]
    path.write_text(json.dumps(content))
    assert run(path, tmp_path / "images", tmp_path / "o.json") == 2
    assert "segmentations[0] lies outside the frame of 48x32 pixels" in one_line(capsys)


def test_coco_annotations(tmp_path: Path, refiner: Shave) -> None:
    images = tmp_path / "images"
    write_frames(images, 2)
    rows = [{"id": k, "file_name": f"{k:05d}.png", "height": H, "width": W} for k in range(2)]
    ring = [5, 4, 15, 4, 15, 12, 5, 12]
    base = {"category_id": 1, "bbox": [0, 0, 1, 1], "area": 7, "iscrowd": 0}
    annotations = [
        base | {"id": 1, "image_id": 1, "segmentation": [ring]},
        base | {"id": 2, "image_id": 0, "segmentation": rle.encode(box(9, 9))},
        base | {"id": 3, "image_id": 1, "segmentation": [ring], "iscrowd": 1},
        base | {"id": 4, "image_id": 1, "segmentation": []},
    ]
    content = {"images": rows, "annotations": annotations, "categories": []}
    (tmp_path / "c.json").write_text(json.dumps(content))
    assert run(tmp_path / "c.json", images, tmp_path / "o.json") == 0
    after = json.loads((tmp_path / "o.json").read_text())["annotations"]
    assert after[2:] == annotations[2:]
    wanted = rle.encode(shaved(box(4, 5)))
    assert after[0]["segmentation"] == wanted
    assert after[0]["bbox"] == [6, 5, 8, 6]
    assert after[0]["area"] == 48
    assert rle.decode(after[1]["segmentation"])[10, 10]
    assert refiner.videos == [[0], [10]]


def label_map(t: int, void: bool = True) -> np.ndarray:
    labels = np.zeros((H, W), np.uint8)
    labels[box(4, 5 + t)] = 1
    labels[box(18, 8 + t)] = 4
    if void:
        labels[30:] = 255
    return labels


def save_map(path: Path, labels: np.ndarray) -> None:
    image = Image.fromarray(labels)
    image.putpalette([(7 * k) % 256 for k in range(768)])
    image.save(path)


def write_maps(folder: Path, frames: range = range(T)) -> Path:
    folder.mkdir(parents=True)
    for t in frames:
        save_map(folder / f"{t:05d}.png", label_map(t))
    return folder


def shaved_map(t: int) -> np.ndarray:
    labels = np.where(label_map(t) == 255, 255, 0)
    for value in (1, 4):
        labels[shaved(label_map(t) == value)] = value
    return labels


def test_a_folder_of_label_maps(tmp_path: Path) -> None:
    masks = write_maps(tmp_path / "masks")
    write_frames(tmp_path / "images")
    assert run(masks, tmp_path / "images", tmp_path / "out") == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        p.name for p in masks.iterdir()
    )
    for t in range(T):
        with Image.open(tmp_path / "out" / f"{t:05d}.png") as image:
            assert (np.array(image) == shaved_map(t)).all()
            assert image.getpalette() == [(7 * k) % 256 for k in range(768)]


def test_folders_of_label_maps_and_a_few_frames_only(tmp_path: Path, refiner, capsys) -> None:
    write_maps(tmp_path / "masks" / "a")
    write_maps(tmp_path / "masks" / "b", range(2, 4))
    for name in "ab":
        write_frames(tmp_path / "images" / name)
    assert run(tmp_path / "masks", tmp_path / "images", tmp_path / "out") == 0
    found = sorted(str(p.relative_to(tmp_path / "out")) for p in tmp_path.glob("out/*/*"))
    assert found == [*(f"a/{t:05d}.png" for t in range(T)), "b/00002.png", "b/00003.png"]
    assert (np.array(Image.open(tmp_path / "out/b/00003.png")) == shaved_map(3)).all()
    said = "4 of 6 frames have no label map and are left alone: 00000 to 00001, 00004 to 00005."
    assert said in capsys.readouterr().out
    # Only the frames from the first to the last map are read.
    assert refiner.videos[1] == [20, 30]


def polygon_file(path: Path, *shapes: tuple[str, int, int]) -> Path:
    rows = [
        {"label": name, "points": [[x, y], [x + 10, y], [x + 10, y + 8], [x, y + 8]]}
        for name, y, x in shapes
    ]
    path.write_text(json.dumps({"version": "5", "shapes": rows, "imageData": "abc"}))
    return path


def test_a_keyframe_polygon(tmp_path: Path, capsys) -> None:
    write_frames(tmp_path / "images")
    masks = tmp_path / "masks"
    masks.mkdir()
    polygon_file(masks / "00003.json", ("dog", 4, 5), ("cat", 18, 8))
    assert run(masks, tmp_path / "images", tmp_path / "out") == 0
    after = json.loads((tmp_path / "out" / "00003.json").read_text())
    assert after["imageData"] == "abc"
    assert [s["label"] for s in after["shapes"]] == ["dog", "cat"]
    ring = np.ravel(after["shapes"][0]["points"]).tolist()
    assert (rle.decode(rle.from_polygons([ring], H, W)) == shaved(box(4, 5))).all()
    said = "5 of 6 frames have no polygon file and are left alone: 00000 to 00002, 00004 to 00005"
    assert said in capsys.readouterr().out
    # One file alone gives one file.
    single = tmp_path / "one.json"
    assert run(masks / "00003.json", tmp_path / "images", single) == 0
    assert json.loads(single.read_text()) == after


def test_the_report_shows_what_moved(tmp_path: Path) -> None:
    write_frames(tmp_path / "images", 3, (120, 160))
    masks = tmp_path / "masks"
    masks.mkdir()
    for t in range(3):
        labels = np.zeros((120, 160), np.uint8)
        labels[20:90, 30 + t : 100 + t] = 3
        save_map(masks / f"{t:05d}.png", labels)
    report = tmp_path / "r.html"
    assert run(masks, tmp_path / "images", tmp_path / "out", "--report", str(report)) == 0
    page = report.read_text()
    assert page.count("<figure>") == 1  # frames that follow one another show the same
    assert "<b>1</b><span>video</span>" in page
    assert "object 3" in page
    # 276 of 4900 pixels; the new contour has 268.
    assert "5.6%" in page
    assert "1.0 px" in page


# --- what goes wrong -----------------------------------------------------------------------------


def test_a_crash_costs_only_the_video_it_happens_in(tmp_path: Path, refiner: Shave, capsys) -> None:
    path, before = write_ytvis(tmp_path, videos=3)
    out = tmp_path / "out.json"
    refiner.fail_at = 2
    with pytest.raises(RuntimeError, match="power cut"):
        run(path, tmp_path / "images", out)
    assert not out.exists()
    assert [p.name for p in tmp_path.glob("out.json.part/*")] == ["video_1.jsonl"]
    refiner.fail_at = None
    assert run(path, tmp_path / "images", out) == 0
    assert "1 video of an earlier run kept" in capsys.readouterr().out
    assert len(refiner.videos) == 4
    after = json.loads(out.read_text())["annotations"]
    assert after[0]["segmentations"] == expected(before["annotations"][0]["segmentations"])


def test_other_options_do_finished_videos_again(tmp_path: Path, refiner: Shave) -> None:
    path, _ = write_ytvis(tmp_path, videos=3)
    refiner.fail_at = 3
    with pytest.raises(RuntimeError):
        run(path, tmp_path / "images", tmp_path / "o.json")
    refiner.fail_at = None
    assert run(path, tmp_path / "images", tmp_path / "o.json", "--accept", "0.9") == 0
    assert len(refiner.videos) == 3 + 3
    refiner.fail_at = 9
    with pytest.raises(RuntimeError):
        run(path, tmp_path / "images", tmp_path / "p.json")
    refiner.fail_at = None
    assert run(path, tmp_path / "images", tmp_path / "p.json", "--weights", "mine.pth") == 0
    assert len(refiner.videos) == 3 + 3 + 3 + 3


def test_a_bad_video_among_good_ones(tmp_path: Path, refiner: Shave, capsys) -> None:
    path, before = write_ytvis(tmp_path, videos=3)
    (tmp_path / "images/v2/00003.png").unlink()
    (tmp_path / "images/v3/00004.png").write_bytes(b"no image")
    out = tmp_path / "out.json"
    assert run(path, tmp_path / "images", out) == 2
    said = capsys.readouterr().err
    assert "v2/00003.png: no such frame (1 of 6 frames of v2 are missing)" in said
    assert "v3/00004.png: cannot be read as an image" in said
    assert "2 videos of 3 could not be refined" in said
    assert not out.exists()
    assert len(refiner.videos) == 2
    assert run(path, tmp_path / "images", out, "--skip-bad") == 0
    assert [len(video) for video in refiner.videos] == [6, 4, 4]
    after = json.loads(out.read_text())["annotations"]
    old = before["annotations"]
    assert after[0]["segmentations"] == expected(old[0]["segmentations"])
    assert after[2:6] == old[2:6]


def damaged(tmp_path: Path, change) -> Path:
    path, content = write_ytvis(tmp_path, videos=1)
    change(content)
    path.write_text(json.dumps(content))
    return path


JSON_CASES = {
    "mask size": (
        lambda c: c["annotations"][0]["segmentations"].__setitem__(0, rle.encode(np.ones((9, 9)))),
        r"annotations\[0\].segmentations\[0\]: the mask is 9x9 pixels, but the frames of .* are "
        "48x32",
    ),
    "video size": (
        lambda c: c["videos"][0].update(height=64),
        "says that v1 has frames of 48x64 pixels, but those of .* have 48x32",
    ),
    "mask count": (
        lambda c: c["annotations"][0]["segmentations"].pop(),
        r"annotations\[0\].segmentations has 5 entries, but .* has 6 frames",
    ),
    "corrupt mask": (
        lambda c: c["annotations"][0]["segmentations"].__setitem__(
            0, {"size": [H, W], "counts": "0"}
        ),
        r"annotations\[0\].segmentations\[0\]: the runs cover 0 pixels",
    ),
    "no frames": (lambda c: c["videos"][0].pop("file_names"), "does not list its frames"),
    "no such video": (
        lambda c: c["annotations"][0].update(video_id=8),
        r"annotations\[0\].video_id is 8, but .* has no such video",
    ),
    "no mask": (lambda c: c["annotations"].clear(), "is none of the known kinds"),
    "no annotations": (lambda c: c.pop("annotations"), "It has categories, info, videos"),
    "unknown": (
        lambda c: c["annotations"][0].pop("segmentations"),
        "known kinds of mask file. Known are YouTube-VIS .* Its first entry has areas",
    ),
}


@pytest.mark.parametrize("case", JSON_CASES)
def test_bad_json(tmp_path: Path, case: str, capsys) -> None:
    change, said = JSON_CASES[case]
    path = damaged(tmp_path, change)
    assert run(path, tmp_path / "images", tmp_path / "o.json") == 2
    lines = capsys.readouterr().err.strip().splitlines()
    message = next(line for line in lines if line.startswith("vmt refine: "))
    assert re.search(said, message), message
    assert not (tmp_path / "o.json").exists()


def one_line(capsys) -> str:
    errors = capsys.readouterr().err.splitlines()
    (message,) = [line for line in errors if line.startswith("vmt refine: ")]
    return message


def test_bad_label_maps(tmp_path: Path, capsys) -> None:
    images = tmp_path / "images"
    write_frames(images, 3)
    masks = write_maps(tmp_path / "masks", range(3))
    save_map(masks / "00001.png", np.zeros((9, 9), np.uint8))
    assert run(masks, images, tmp_path / "out") == 2
    assert "00001.png: is 9x9 pixels, but its frame is 48x32" in one_line(capsys)
    (masks / "00001.png").rename(masks / "x1.png")
    assert run(masks, images, tmp_path / "out") == 2
    assert "x1.png: no frame of that name in" in one_line(capsys)
    (masks / "x1.png").unlink()
    (masks / "00002.png").write_bytes(b"")
    assert run(masks, images, tmp_path / "out") == 2
    assert "00002.png: is empty (0 bytes)" in one_line(capsys)


def test_bad_videos(tmp_path: Path, capsys) -> None:
    masks = write_maps(tmp_path / "masks")
    short, broken = write_clip(tmp_path / "a.mp4", 4), tmp_path / "b.mp4"
    broken.write_bytes(b"no video at all")
    assert run(masks, short, tmp_path / "out") == 2
    assert "00005.png: is for frame 5, but a has frames 0 to 3" in one_line(capsys)
    assert run(masks, broken, tmp_path / "out") == 2
    assert "b.mp4: cannot be opened as a video" in one_line(capsys)
    path, content = write_ytvis(tmp_path / "two")
    assert run(path, short, tmp_path / "o.json") == 2
    assert "is one video, but" in one_line(capsys)
    content["annotations"] = content["annotations"][:2]
    path.write_text(json.dumps(content))
    assert run(path, short, tmp_path / "o.json") == 2
    assert "segmentations has 6 entries, but a has 4 frames" in one_line(capsys)


def test_bad_places(tmp_path: Path, capsys) -> None:
    path, _ = write_ytvis(tmp_path, videos=1)
    images = tmp_path / "images"
    assert run(tmp_path / "none.json", images, tmp_path / "o.json") == 2
    assert "none.json: no such file or folder of masks" in one_line(capsys)
    assert run(images / "v1", images / "v1", tmp_path / "o") == 2
    assert "v1/00000.png: would be mask and frame at once" in one_line(capsys)
    (tmp_path / "empty").mkdir()
    assert run(tmp_path / "empty", images, tmp_path / "o") == 2
    assert "holds no masks of a known kind" in one_line(capsys)
    assert run(path, tmp_path / "nowhere", tmp_path / "o.json") == 2
    assert "nowhere: no such folder of frames" in one_line(capsys)
    assert run(path, tmp_path / "empty", tmp_path / "o.json") == 2
    assert "v1/00000.png: no such frame (6 of 6" in one_line(capsys)
    assert run(path, images, path) == 2
    assert "would overwrite the input" in one_line(capsys)
    masks = write_maps(tmp_path / "masks")
    assert run(masks, images / "v1", images) == 2
    assert "exists and is not empty" in one_line(capsys)
    for option in (("--accept", "1.5"), ("--void", "x")):
        assert run(path, images, tmp_path / "o.json", *option) == 2
        assert f"{option[0]} {option[1]}: give" in one_line(capsys)


def test_nothing_to_refine(tmp_path: Path, capsys) -> None:
    path, content = write_ytvis(tmp_path, videos=1)
    for row in content["annotations"]:
        row["segmentations"] = [None] * T
    path.write_text(json.dumps(content))
    report = tmp_path / "r.html"
    assert run(path, tmp_path / "images", tmp_path / "o.json", "--report", str(report)) == 0
    assert (tmp_path / "o.json").read_bytes() == path.read_bytes()
    assert "There is no mask to refine." in capsys.readouterr().out
    assert "Nothing changed" in report.read_text()
    assert "<td>" not in report.read_text()
