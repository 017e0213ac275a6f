"""Keys of inference and evaluation: what is run over a video, and what is written about it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode

from cocoapi_hq.io import rle
from tests.config.keys.pairs import LATER, Pair, network, record_hidden_types, shows, shows_each
from tests.inference.fake_model import BlobFrameModel, BlobModel, blob_video
from tests.recorded_graph import graphs_on_cpu
from vmt.engine.evaluate import SetResults, evaluate_set
from vmt.engine.job import evaluate_only
from vmt.inference.images import ImageOptions, ImagePredictor
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.inference.video_writer import write_png
from vmt.layers.query_heads import best_queries
from vmt.modeling import video_model
from vmt.utils.errors import ConfigError, VideoError

FRAMES, SIZE = 6, (48, 80)
#: Frames as they are.
PLAIN = ("INPUT.MIN_SIZE_TEST", "48", "INPUT.MAX_SIZE_TEST", "0")


@pytest.fixture(scope="module")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """JSON of a video in which a red and a green blob move; the red one is annotated."""
    folder = tmp_path_factory.mktemp("blobs")
    frames = [frame.numpy() for frame in blob_video(FRAMES, SIZE)]
    names = [f"{t:05d}.png" for t in range(FRAMES)]
    for name, frame in zip(names, frames, strict=True):
        (folder / "JPEGImages").mkdir(exist_ok=True)
        write_png(folder / "JPEGImages" / name, frame)
    red = [rle.encode(np.ascontiguousarray((f == (255, 0, 0)).all(-1))) for f in frames]
    size = {"height": SIZE[0], "width": SIZE[1], "length": FRAMES}
    path = folder / "annotations.json"
    path.write_text(json.dumps({
        "videos": [{"id": 1, "file_names": names, **size}],
        "categories": [{"id": c, "name": n} for c, n in ((10, "red"), (20, "green"), (30, "blue"))],
        "annotations": [{
            "id": 1, "video_id": 1, "category_id": 10, "iscrowd": 0, "segmentations": red,
            "bboxes": [list(rle.to_box(m)) for m in red], "areas": [rle.area(m) for m in red],
        }],
    }))  # fmt: skip
    return path


def at(path: Path) -> str:
    return f"{path}@{path.parent / 'JPEGImages'}"


def evaluated(cfg: CfgNode, blobs: Path, folder: Path, model: Any = None) -> SetResults:
    found = evaluate_set(cfg, model or BlobModel(noise_queries=0), at(blobs), folder)
    assert found is not None
    return found


def both(pair: Pair, blobs: Path, tmp_path: Path, *extra: str) -> list[SetResults]:
    configs = pair.configs(*extra)
    return [evaluated(cfg, blobs, tmp_path / str(k)) for k, cfg in enumerate(configs)]


# --- what a network sees --------------------------------------------------------------------------


@shows("TEST.MASK_QUALITY", False, *PLAIN)
def test_mask_quality(pair: Pair) -> None:
    """Scores of an image: of the class times the mask, or of the class alone."""
    frame = blob_video(1, SIZE)[0].numpy()
    times_mask, alone = (
        ImagePredictor(BlobFrameModel(), ImageOptions.from_config(cfg))(frame).scores[0].item()
        for cfg in pair
    )
    assert alone == pytest.approx(torch.tensor(2.0).sigmoid().item())
    assert 0.5 * alone < times_mask < 0.999 * alone


@shows_each(
    {
        # short side 40 of 48x80; then the long side, at most 60
        "INPUT.MIN_SIZE_TEST": (40, (40, 66)),
        "INPUT.MAX_SIZE_TEST": (60, (36, 60)),
    },
    "size",
    *PLAIN,
)
def test_size_at_inference(pair: Pair, size: tuple[int, int]) -> None:
    frames = [frame.numpy() for frame in blob_video(2, SIZE)]
    sizes = []
    for cfg in pair:
        model = BlobModel()
        segment = model.segment_clip
        model.segment_clip = lambda clip, segment=segment: (
            sizes.append(tuple(clip.shape[-2:])), segment(clip)
        )[1]  # fmt: skip
        list(VideoPredictor(model, PredictorOptions.from_config(cfg)).stream(frames))
    assert sizes == [SIZE, size]


@shows_each(
    {
        "TEST.WINDOW": (4, "0", [6], [4, 4]),
        "TEST.STRIDE": (1, "3", [3, 3, 3], [3, 3, 3, 3]),
    },
    "window,before,after",
    *PLAIN,
)
def test_windows(
    pair: Pair, window: str, before: list[int], after: list[int], blobs: Path, tmp_path: Path
) -> None:
    """Frames of every clip that the network is given of a video of six."""
    clips = []
    for k, cfg in enumerate(pair.configs("TEST.WINDOW", window)):
        model = BlobModel(noise_queries=0)
        evaluated(cfg, blobs, tmp_path / str(k), model)
        clips.append(model.clips)
    assert clips == [before, after]


@shows("TEST.TOP_K", 1, *PLAIN)
def test_top_k_of_a_video(pair: Pair, blobs: Path, tmp_path: Path) -> None:
    """Two tracks of three classes, or the best pair of track and class."""
    found = [json.loads(r.path.read_text()) for r in both(pair, blobs, tmp_path)]
    assert [len(entries) for entries in found] == [6, 1]


@torch.no_grad()
@shows("TEST.TOP_K", 2)
def test_top_k_of_a_clip(pair: Pair) -> None:
    """Queries with one good class each."""
    logits = torch.eye(6, 10)
    assert [len(best_queries(logits, network(cfg).top_k)) for cfg in pair] == [6, 2]


@shows("TEST.FRAME_CHUNK", 3, "MODEL.REFINER.NAME", "dense_band")
def test_frame_chunk(pair: Pair) -> None:
    """Four frames in two passes of two, or in one of three and one of one; the same results."""
    found = []
    for cfg in pair:
        net = network(cfg).eval()
        passes: list[list[int]] = [[], []]
        for part, calls in zip((net.backbone, net.refiner.rgb), passes, strict=True):
            part.register_forward_pre_hook(lambda _, a, calls=calls: calls.append(len(a[0])))
        generator = torch.Generator().manual_seed(0)
        clip = net.segment_clip(torch.rand(4, 3, 72, 104, generator=generator) * 255)
        found.append((passes, clip.mask_logits))
    assert [passes for passes, _ in found] == [[[2, 2], [2, 2]], [[3, 1], [3, 1]]]
    torch.testing.assert_close(found[0][1], found[1][1], atol=1e-4, rtol=1e-4)


@shows("COMPAT", "released", "INPUT.MIN_SIZE_TEST", "41")
def test_crop_to_input(pair: Pair) -> None:
    """A red lower half of 41x68 pixels in a map of 6x9 cells of 8: row 24, or 20.5 / 48 of 48."""
    frame = np.zeros((*SIZE, 3), np.uint8)
    frame[24:, :, 0] = 255
    tops = []
    for cfg in pair:
        model = BlobModel(mask_stride=8, noise_queries=0)
        predictor = VideoPredictor(model, PredictorOptions.from_config(cfg))
        (result,) = predictor.stream([frame])
        tops.append(min(track.box_xyxy_px[1] for track in result.tracks))
    assert tops[0] == pytest.approx(24, abs=2)
    assert tops[1] == pytest.approx(20.5, abs=2)
    assert tops[0] > tops[1] + 2


@shows("TEST.PRECISION", "bf16")
def test_precision(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the layers of the encoder compute in."""
    found: list[torch.dtype] = []
    for cfg in pair:
        net = network(cfg).eval()
        record_hidden_types(net.encoder.layers[0], found, monkeypatch)
        net.segment_clip(torch.zeros(1, 3, 72, 104))
    assert found == [torch.float32, torch.bfloat16]


@shows("TEST.GRAPH", True)
def test_graph(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is replayed in three passes over clips of one size."""
    captured = graphs_on_cpu(monkeypatch)
    monkeypatch.setattr(video_model, "is_capturable", lambda device: True)
    replays = []
    for cfg in pair:
        net = network(cfg).eval()
        for _ in range(3):
            net.segment_clip(torch.zeros(1, 3, 72, 104))
        replays.append([graph.replays for graph in captured])
    assert replays == [[], [2]]


# --- what is written ------------------------------------------------------------------------------


@shows("TEST.METRICS", ["tube_boundary"], *PLAIN)
def test_metrics(pair: Pair, blobs: Path, tmp_path: Path) -> None:
    found = [{name.split("/")[0] for name in r.numbers} for r in both(pair, blobs, tmp_path)]
    assert found == [{"tube_mask", "tube_boundary"}, {"tube_boundary"}]
    nothing = evaluated(pair.to([], *PLAIN)[1], blobs, tmp_path / "none")
    assert nothing.numbers == {}


@shows("TEST.PROTOCOL", "ytvis_2019", *PLAIN, "TEST.METRICS", "[tube_mask]")
def test_protocol(pair: Pair, blobs: Path, tmp_path: Path) -> None:
    """Refined masks count where the file has them (here: a pixel), or never."""
    content = json.loads(blobs.read_text())
    pixel = np.zeros(SIZE, bool)
    pixel[0, 0] = True
    content["annotations"][0]["segmentations_refined"] = [rle.encode(pixel)] * FRAMES
    path = tmp_path / "annotations.json"
    path.write_text(json.dumps(content))
    (tmp_path / "JPEGImages").symlink_to(blobs.parent / "JPEGImages")
    by_fields, coarse = (r.numbers["tube_mask/AP"] for r in both(pair, path, tmp_path))
    assert by_fields == 0
    assert coarse > 0.5


@shows("TEST.ZIP", True, *PLAIN)
def test_zip(pair: Pair, blobs: Path, tmp_path: Path) -> None:
    without, packed = (r.path.parent / "results.zip" for r in both(pair, blobs, tmp_path))
    assert not without.exists()
    assert zipfile.ZipFile(packed).namelist() == ["results.json"]


@shows("TEST.SKIP_BROKEN_VIDEOS", True, *PLAIN)
def test_broken_videos(pair: Pair, blobs: Path, tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(blobs.read_text())
    (tmp_path / "JPEGImages").mkdir()
    base, changed = pair
    with pytest.raises(VideoError, match="00000"):
        evaluated(base, path, tmp_path / "a")
    assert evaluated(changed, path, tmp_path / "b").skipped == (1,)


RUN = (*PLAIN, "TEST.METRICS", "[]")


@shows("DATASETS.TEST", LATER, *RUN)
def test_evaluated_sets(pair: Pair, blobs: Path, tmp_path: Path) -> None:
    base, changed = pair.to([at(blobs)], "OUTPUT_DIR", tmp_path, "MODEL.LABEL_SPACE", blobs)
    with pytest.raises(ConfigError, match=r"DATASETS\.TEST is empty"):
        evaluate_only(base)
    assert evaluate_only(changed) == 0
    assert (tmp_path / "inference/annotations/results.json").is_file()


@shows("TEST.EXPECTED_RESULTS", LATER, *RUN)
def test_expected_results(pair: Pair, blobs: Path, tmp_path: Path) -> None:
    """A number that nobody computes cannot meet what is expected of it."""
    extra = ("DATASETS.TEST", json.dumps([at(blobs)]), "OUTPUT_DIR", tmp_path,
             "MODEL.LABEL_SPACE", blobs)  # fmt: skip
    base, changed = pair.to([[at(blobs), "tube_mask/AP", 0.5, 0.1]], *extra)
    assert [evaluate_only(cfg) for cfg in (base, changed)] == [0, 1]
