"""The loop of tools/self_correct.py around a training and a refiner that are made up."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest

from cocoapi_hq.io import rle
from tests.conftest import load_tool
from tests.recipes import SHORT, SMALL
from vmt.apps import self_correct as loop
from vmt.apps.refine.options import RefineOptions
from vmt.apps.self_correct import score
from vmt.cli.main import main as vmt
from vmt.data.degrade_file import degrade_file
from vmt.engine.job import Job, run_job
from vmt.engine.launch import LaunchOptions
from vmt.utils.errors import VmtError

SIZE = (150, 200)


@pytest.fixture
def tool() -> ModuleType:
    return load_tool("self_correct")


def square_set(folder: Path, videos: int = 2) -> Path:
    """Squares that stand still, with exact masks."""
    rows, listed = [], []
    for v in range(1, videos + 1):
        mask = np.zeros(SIZE, np.uint8)
        mask[30 + v : 110, 45 : 145 + v] = 1
        names = [f"v{v}/{t}.jpg" for t in range(3)]
        (folder / "JPEGImages" / f"v{v}").mkdir(parents=True, exist_ok=True)
        for name in names:
            cv2.imwrite(str(folder / "JPEGImages" / name), 200 * mask)
        listed.append({"id": v, "file_names": names, "width": 200, "height": 150, "length": 3})
        segmentations = [rle.encode(mask), None if v == 2 else rle.encode(mask), rle.encode(mask)]
        rows.append({
            "id": v, "video_id": v, "category_id": 1, "iscrowd": 0, "segmentations": segmentations,
            "bboxes": [m and list(rle.to_box(m)) for m in segmentations],
            "areas": [m and rle.area(m) for m in segmentations],
        })  # fmt: skip
    content = {"videos": listed, "annotations": rows, "categories": [{"id": 1, "name": "square"}]}
    path = folder / "annotations.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    truth = square_set(tmp_path / "set")
    coarse = tmp_path / "coarse.json"
    degrade_file(truth, coarse, "halo", 0)
    images = tmp_path / "set/JPEGImages"
    base = Path(__file__).parents[2] / "configs/refine/mask_refiner_frames.yaml"
    path = tmp_path / "loop.yaml"
    path.write_text(json.dumps({
        "_BASE_": str(base),
        "DATASETS": {"TRAIN": [f"{truth}@{images}"]},
    }))  # fmt: skip
    return path


class MadeUp:
    """In place of training and refinement: a refinement takes two pixels of halo."""

    def __init__(self, good: int, fail_at: int = 10**6) -> None:
        self.good, self.fail_at = good, fail_at
        self.calls: list[dict[str, str]] = []

    def train(self, job: Job, launch: LaunchOptions) -> int:
        keys = dict(zip(job.overrides[::2], job.overrides[1::2], strict=True))
        self.calls.append({"command": "train"} | keys)
        folder = Path(keys["OUTPUT_DIR"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model_final.safetensors").write_bytes(b"weights")
        assert job.resume
        assert launch == LaunchOptions(num_gpus=0)
        return 0

    def refine(self, options: RefineOptions, say: object) -> str:
        assert len(self.calls) < self.fail_at, "broken"
        fields = {name: str(value) for name, value in vars(options).items()}
        self.calls.append({"command": "refine"} | fields)
        trained = sum(call["command"] == "train" for call in self.calls)
        content = json.loads(options.masks.read_text())
        for row in content["annotations"]:
            for t, mask in enumerate(row["segmentations"]):
                if mask and trained <= self.good:
                    pixels = rle.decode(mask).astype(np.uint8)
                    smaller = cv2.erode(pixels, np.ones((5, 5), np.uint8))
                    row["segmentations"][t] = rle.encode(smaller)
        options.output.write_text(json.dumps(content))
        return "refined"


def run(tool: ModuleType, config: Path, output: Path, fake: MadeUp, *more: str) -> int:
    images = config.parent / "set/JPEGImages"
    coarse, truth = config.parent / "coarse.json", config.parent / "set/annotations.json"
    sets = {"coarse": f"{coarse}@{images}", "truth": f"{truth}@{images}"}
    sets |= {"val": f"{truth}@{images}", "val-coarse": str(coarse)}
    options = {"config-file": config, "output": output, "next-steps": 7} | sets
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "run_job", fake.train)
        patch.setattr(loop, "refine_masks", fake.refine)
        return tool.main([*(f"--{name}={value}" for name, value in options.items()), *more])


def test_it_stops_when_nothing_is_gained(tool: ModuleType, config: Path, tmp_path: Path) -> None:
    fake, out = MadeUp(good=2), tmp_path / "out"
    assert run(tool, config, out, fake) == 0
    scores = json.loads((out / "scores.json").read_text())
    errors = [row["truth"]["boundary_error"] for row in scores["iterations"]]
    assert len(errors) == 4, "coarse, two that help, one that does not"
    assert errors[0] > errors[1] > errors[2] == errors[3]
    assert scores["best_iteration"] == 2
    trainings = [call for call in fake.calls if call["command"] == "train"]
    assert "MODEL.WEIGHTS" not in trainings[0]
    assert trainings[1]["MODEL.WEIGHTS"].endswith("iteration_1/train/model_final.safetensors")
    assert "iteration_1/annotations.json@" in trainings[1]["DATASETS.TRAIN"]
    assert trainings[1]["SOLVER.MAX_STEPS"] == "7"
    refined = json.loads((out / "refined.json").read_text())["annotations"]
    corrected = json.loads((out / "iteration_2/annotations.json").read_text())["annotations"]
    original = json.loads((config.parent / "coarse.json").read_text())["annotations"]
    for row, new, old in zip(refined, corrected, original, strict=True):
        assert row["segmentations_refined"] == new["segmentations"] != old["segmentations"]
        assert row["segmentations"] == old["segmentations"]


def test_it_goes_on_where_it_broke_off(tool: ModuleType, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    broken = MadeUp(good=9, fail_at=4)
    with pytest.raises(AssertionError, match="broken"):
        run(tool, config, out, broken)
    first = (out / "iteration_1/annotations.json").stat().st_mtime_ns
    fake = MadeUp(good=9)
    assert run(tool, config, out, fake) == 0
    assert (out / "iteration_1/annotations.json").stat().st_mtime_ns == first
    assert [call["command"] for call in fake.calls[:2]] == ["refine", "refine"]
    assert len(json.loads((out / "scores.json").read_text())["iterations"]) >= 4
    again = MadeUp(good=9)
    assert run(tool, config, out, again) == 0
    assert again.calls == []


def test_without_validation_all_iterations_run(
    tool: ModuleType, config: Path, tmp_path: Path
) -> None:
    fake, out = MadeUp(good=0), tmp_path / "out"
    options = ("--val=", "--iterations=3")
    assert run(tool, config, out, fake, *options) == 0
    assert json.loads((out / "scores.json").read_text())["best_iteration"] == 3


def test_each_iteration_may_correct_the_original(
    tool: ModuleType, config: Path, tmp_path: Path
) -> None:
    """One erosion of the coarse masks, not three; training still sees what was corrected last."""
    fake, out = MadeUp(good=9), tmp_path / "out"
    options = ("--input=original", "--min-gain=-100.0")
    assert run(tool, config, out, fake, *options) == 0
    coarse = str(config.parent / "coarse.json")
    refined = [call["masks"] for call in fake.calls if call["command"] == "refine"]
    assert refined == [coarse] * 8
    trainings = [call for call in fake.calls if call["command"] == "train"]
    assert "iteration_3/annotations.json@" in trainings[3]["DATASETS.TRAIN"]


def test_messages(
    tool: ModuleType, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake, out = MadeUp(good=1), tmp_path / "out"
    for option, words in (("--coarse=", "--coarse is empty"), ("--val-coarse=", "no file")):
        assert run(tool, config, out, fake, option) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(SystemExit):
        run(tool, config, out, fake, "--input=both")
    assert "'previous', 'original'" in capsys.readouterr().err


def test_a_training_that_is_stopped_is_named(
    tool: ModuleType, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake = MadeUp(good=1)
    fake.train = lambda job, launch: 143  # type: ignore[method-assign]
    assert run(tool, config, tmp_path / "out", fake) == 2
    assert "the training of iteration 1 ended with status 143" in capsys.readouterr().err


def test_rules_reach_every_refinement(tool: ModuleType, config: Path, tmp_path: Path) -> None:
    fake = MadeUp(good=9)
    options = ("--accept=0.9", "--window=3", "--iterations=2")
    assert run(tool, config, tmp_path / "out", fake, *options) == 0
    given = {(c["accept"], c["window"]) for c in fake.calls if c["command"] == "refine"}
    assert given == {("0.9", "3")}


@pytest.mark.parametrize(("gain", "count"), [("-100", 4), ("0.2", 3), ("1000", 2)])
def test_least_gain(gain: str, count: int, tool: ModuleType, config: Path, tmp_path: Path) -> None:
    """The third iteration gains nothing."""
    fake = MadeUp(good=2)
    assert run(tool, config, tmp_path / "out", fake, f"--min-gain={gain}") == 0
    assert sum(call["command"] == "train" for call in fake.calls) == count


@pytest.mark.parametrize(("steps", "expected"), [(0, [None, None]), (7, [None, "7"])])
def test_steps_of_later_iterations(
    steps: int, expected: list[str | None], tool: ModuleType, config: Path, tmp_path: Path
) -> None:
    fake = MadeUp(good=9)
    options = (f"--next-steps={steps}", "--iterations=2")
    assert run(tool, config, tmp_path / "out", fake, *options) == 0
    trainings = [call for call in fake.calls if call["command"] == "train"]
    assert [call.get("SOLVER.MAX_STEPS") for call in trainings] == expected


def test_sets(tool: ModuleType, config: Path, tmp_path: Path) -> None:
    """Each is read where it belongs: copies of the files under other names."""
    folder = config.parent
    images, paths = folder / "set/JPEGImages", {}
    truth, coarse = "set/annotations.json", "coarse.json"
    for name, source in (
        ("coarse", coarse), ("val", truth), ("val-coarse", coarse), ("truth", truth),
    ):  # fmt: skip
        paths[name] = folder / f"own_{name}.json"
        paths[name].write_text((folder / source).read_text())
    sets = [f"--{n}={p}" if n == "val-coarse" else f"--{n}={p}@{images}" for n, p in paths.items()]
    fake = MadeUp(good=9)
    assert run(tool, config, tmp_path / "a", fake, *sets, "--iterations=1") == 0
    refined = [call["masks"] for call in fake.calls if call["command"] == "refine"]
    assert refined == [str(paths["coarse"]), str(paths["val-coarse"])]
    scores = json.loads((tmp_path / "a/scores.json").read_text())["iterations"]
    assert [set(row) for row in scores] == [{"val", "truth"}] * 2
    fake = MadeUp(good=9)
    more = ("--val=", "--truth=", "--iterations=1")
    assert run(tool, config, tmp_path / "b", fake, *sets, *more) == 0
    assert sum(call["command"] == "refine" for call in fake.calls) == 1
    assert json.loads((tmp_path / "b/scores.json").read_text())["iterations"] == [{}, {}]


def halo_free(path: Path, target: Path) -> Path:
    """A file of YouTube-VIS whose plain masks are the exact ones."""
    content = json.loads(path.read_text())
    for row in content["annotations"]:
        row["segmentations"] = row.pop("segmentations_refined")
    target.write_text(json.dumps(content))
    return target


def test_masks_are_scored_against_the_refined_ones(
    tool: ModuleType, tiny_datasets: Path, tmp_path: Path
) -> None:
    """HQ-YTVIS has both: exact masks score 100, those of YouTube-VIS with their halo do not."""
    truth = tiny_datasets / "hq_ytvis/ytvis_hq-val.json"
    exact = score(truth, halo_free(truth, tmp_path / "exact.json"))
    assert (exact["boundary_AP"], exact["mask_AP"]) == pytest.approx((100, 100))
    assert exact["boundary_error"] == pytest.approx(0)
    coarse = score(truth, tiny_datasets / "hq_ytvis/coarse/train-val.json")
    assert coarse["boundary_error"] > 20


def test_videos_are_matched_by_their_folders(
    tool: ModuleType, tiny_datasets: Path, tmp_path: Path
) -> None:
    truth = tiny_datasets / "hq_ytvis/ytvis_hq-val.json"
    path = halo_free(truth, tmp_path / "exact.json")
    content = json.loads(path.read_text())
    ids = [video["id"] for video in content["videos"]]
    swapped = dict(zip(ids, reversed(ids), strict=True))
    for row in content["videos"]:
        row["id"] = swapped[row["id"]]
    for row in content["annotations"]:
        row["video_id"] = swapped[row["video_id"]]
    path.write_text(json.dumps(content))
    assert score(truth, path)["boundary_AP"] == pytest.approx(100)
    with pytest.raises(VmtError, match=r"4 are in one of them alone .*--cut"):
        score(truth, tiny_datasets / "hq_ytvis/coarse/train-test.json")


def test_the_loop_of_the_paper_on_its_sets(
    tool: ModuleType, tiny_datasets: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ovis_to_ytvis.yaml as it stands but for sizes; its commands run in this process."""
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_datasets))
    jobs: list[Job] = []

    def train(job: Job, launch: LaunchOptions) -> int:
        jobs.append(job)
        return run_job(job, launch)

    monkeypatch.setattr(loop, "run_job", train)
    keys = SMALL | SHORT | {"MODEL.NEW_PARAMETERS": "['']", "MODEL.WEIGHTS": ""}
    words = [word for pair in keys.items() for word in pair]
    config = Path(__file__).parents[2] / "configs/refine/ovis_to_ytvis.yaml"
    output = tmp_path / "out"
    options = ["--config-file", str(config), "--output", str(output), "--device", "cpu"]
    options += ["--coarse", "hq_ytvis_train_coarse", "--val", "hq_ytvis_val"]
    options += ["--val-coarse", "hq_ytvis_val_coarse", "--iterations", "2", "--min-gain=-100"]
    assert tool.main([*options, *words]) == 0
    assert len(jobs) == 2
    refined = json.loads((output / "refined.json").read_text())
    names = {Path(video["file_names"][0]).parent.name for video in refined["videos"]}
    assert names == {"tr20190000", "tr20190001", "tr20190002"}  # of HQ-YTVIS train, no others
    scores = json.loads((output / "scores.json").read_text())["iterations"]
    hq = tiny_datasets / "hq_ytvis"
    assert scores[0]["val"] == score(hq / "ytvis_hq-val.json", hq / "coarse/train-val.json")
    # the second training reads what the first correction wrote, and starts from its network
    second = dict(pairwise(jobs[1].overrides))
    assert second["DATASETS.TRAIN"].startswith(f'["{output}/iteration_1/annotations.json@')
    assert second["DATASETS.MASK_KEY"] == "segmentations"


def test_weights_that_are_not_there_are_named_with_their_source(
    tool: ModuleType, tiny_datasets: Path, tmp_path: Path, monkeypatch, capsys
) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tiny_datasets))
    config = Path(__file__).parents[2] / "configs/refine/ovis_to_ytvis.yaml"
    keys = [word for pair in (SMALL | SHORT).items() for word in pair]
    out = ["--output", str(tmp_path / "out"), "--num-gpus", "0"]
    assert vmt(["train", "--config-file", str(config), *out, *keys]) == 2
    said = capsys.readouterr().err
    assert (
        "weights/seqformer_r50.pth: no such weight file; `vmt zoo --download seqformer_r50`" in said
    )


def test_iterations_of_other_data_or_settings_are_not_taken_over(
    tool: ModuleType, config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run(tool, config, out, MadeUp(good=1), "--iterations=1") == 0
    assert run(tool, config, out, MadeUp(good=1), "--iterations=2") == 0
    assert run(tool, config, out, MadeUp(good=1), "--accept=0.9") == 2
    assert "options.accept: 0.65 -> 0.9" in capsys.readouterr().err
    coarse = config.parent / "coarse.json"
    coarse.write_text(coarse.read_text() + " ")
    assert run(tool, config, out, MadeUp(good=1), "--iterations=2") == 2
    assert "annotations of --coarse" in capsys.readouterr().err
