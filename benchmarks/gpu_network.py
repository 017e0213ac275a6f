"""Steps of ``run_gpu.py`` about networks: how fast they are on this card, how large.

Not a script.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from typing import Any
from unittest import mock

import bench_end_to_end
import numpy as np
import torch
from bench_mask_refiner_speed import Discs
from common import REPO
from gpu_common import (
    Step,
    StepError,
    peak,
    profiled,
    reset_peak,
    wait,
    wall_seconds,
)
from torch import Tensor

import vmt
from tests.synthetic import CATEGORIES, moving_shapes, shape_clip
from vmt.config.node import load_config
from vmt.engine.lr_schedule import Schedule
from vmt.engine.optimizer import build_optimizer
from vmt.engine.train_loop import StepOptions, Trainer
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.refiners.quadtree import refiner as quadtree
from vmt.modeling.refiners.quadtree.refiner import QuadtreeRefiner
from vmt.modeling.video_model import ClipModel, Segmenter, VideoModel
from vmt.structures.labels import LabelSpace

#: Share of all cells that trained quadtrees refine; random weights would mark half of them.
NODE_SHARE = 0.04
#: What is fast and what is right of every method: config, and its toy.
NETWORKS = {
    "vmt_released_R50": ("hq_ytvis/vmt_R50_released", "quick/vmt_tiny_released"),
    "vmt_R50": ("hq_ytvis/vmt_R50", "quick/vmt_tiny"),
    "vmt_released_SwinL": ("hq_ytvis/vmt_SwinL_released", "quick/vmt_tiny_released"),
    "idol_R50": ("hq_ytvis/idol_R50", "quick/idol_tiny"),
    "minvis_R50": ("hq_ytvis/minvis_R50", "quick/minvis_tiny"),
    "refinevis_R50": ("hq_ytvis/refinevis_R50", "quick/refinevis_tiny"),
}


def clip_of(step: Step, frames: int, size: tuple[int, int]) -> Tensor:
    """(T, 3, H, W) uint8: shapes that move."""
    video = moving_shapes(frames, step.size(size, (64, 96)), 0)
    return torch.from_numpy(video.frames).permute(0, 3, 1, 2).contiguous()


def load(step: Step, name: str, device: str | torch.device, *overrides: str) -> Segmenter:
    """A network of ``NETWORKS`` with random weights."""
    torch.manual_seed(0)
    config = REPO / "configs" / f"{step.size(*NETWORKS[name])}.yaml"
    words = ["MODEL.WEIGHTS", "", "MODEL.BACKBONE.PRETRAINED", "False", *overrides]
    model: Any = vmt.load_model(config, None, words, str(device))
    return model  # type: ignore[no-any-return]


def answer(model: Segmenter, clip: Tensor) -> dict[str, Tensor]:
    """What a network says of a clip, on the CPU."""
    if isinstance(model, ClipModel):
        found = model.segment_clip(clip)
        values = {"query": found.query_index, "masks": found.mask_logits}
    else:
        frames = model.segment_frames(clip)
        values = {"logits": torch.stack([frame.logits for frame in frames])}
        values["embeddings"] = torch.stack([frame.embeddings for frame in frames])
    return {name: value.detach().float().cpu() for name, value in values.items()}


def at_node_share(model: VideoModel, clip: Tensor) -> None:
    """Set a quadtree's thresholds so that it refines ``NODE_SHARE`` of the cells of every level."""
    trees = [part for part in model.modules() if isinstance(part, QuadtreeRefiner)]
    if not trees:
        return
    noted: list[Sequence[Tensor]] = []
    build = quadtree.build_quadtree

    def note(scores: Sequence[Tensor], *args: Any, **kwargs: Any) -> Any:
        noted.append([level.detach().float().flatten().cpu() for level in scores])
        return build(scores, *args, **kwargs)

    with mock.patch.object(quadtree, "build_quadtree", note):
        model.predict({"image": clip[:2]})
    if not noted:
        raise StepError("the quadtree was not grown; there is nothing to set its thresholds by.")
    levels = [torch.cat(level).sort().values for level in zip(*noted, strict=True)]
    thresholds = tuple(float(x[int((1 - NODE_SHARE) * (len(x) - 1))]) for x in levels)
    for tree in trees:
        tree.thresholds = thresholds


# --- speed ----------------------------------------------------------------------------------------


def model(step: Step) -> None:
    """Frames per second, memory, launches and waits of whole networks at 360x640."""
    rows: list[dict[str, Any]] = []
    dry = [(n, 2, "fp32", 2, False) for n in NETWORKS if "Swin" not in n]
    for name, frames, precision, chunk, graph in step.size(_jobs(), dry):
        keys = ("TEST.PRECISION", precision, "TEST.FRAME_CHUNK", str(chunk))
        network = load(step, name, step.device, *keys, "TEST.GRAPH", str(graph))
        rows.append({"network": name, "frames": frames, "precision": precision, "chunk": chunk})
        rows[-1]["graph"] = graph
        rows[-1] |= _time_network(step, network, clip_of(step, frames, (360, 640)))
        step.put(rows=rows)
        del network
    best = max(rows, key=lambda row: row["frames_per_second"])
    step.put(
        summary=f"{len(rows)} settings; fastest {best['network']} {best['precision']} "
        f"T={best['frames']}: {best['frames_per_second']:.1f} frames/s"
        f"{' with TEST.GRAPH' * best['graph']}"
    )


def _jobs() -> list[tuple[str, int, str, int, bool]]:
    """(network, frames, precision, frame chunk, ``TEST.GRAPH``), the most telling first."""
    release, swin = "vmt_released_R50", "vmt_released_SwinL"
    graphed = [(release, 36, "bf16", 36), (release, 5, "bf16", 5), ("idol_R50", 36, "bf16", 36)]
    jobs = [(release, 36, "bf16", chunk) for chunk in (36, 9, 2)]
    jobs += [(release, 5, precision, 5) for precision in ("bf16", "tf32", "fp32")]
    jobs += [("vmt_R50", 36, "bf16", 36), ("vmt_R50", 5, "bf16", 5)]
    jobs += [(name, 36, "bf16", 36) for name in ("idol_R50", "minvis_R50", "refinevis_R50")]
    jobs += [(swin, 36, "bf16", 9), (swin, 5, "bf16", 5), (swin, 5, "fp32", 5)]
    jobs += [("vmt_R50", 5, "fp32", 5), (release, 36, "tf32", 36), (release, 36, "fp32", 36)]
    first, *others = [(*job, False) for job in jobs]
    return [first, *((*job, True) for job in graphed), *others]


def _time_network(step: Step, network: Segmenter, clip: Tensor) -> dict[str, Any]:
    device = step.device
    at_node_share(network, clip)

    def call() -> None:
        network.predict({"image": clip})

    reset_peak(device)
    first = wall_seconds(call, device, 1, 0)[0]
    repeats = step.size(5 if len(clip) <= 5 else 3, 1)
    # the second call of all may capture a graph
    seconds = statistics.median(wall_seconds(call, device, repeats, step.size(1, 0)))
    profile = profiled(call, device)
    if "device_seconds" in profile:
        profile["busy_share"] = profile["device_seconds"] / seconds
    return {
        "frames_per_second": len(clip) / seconds,
        "first_seconds": first,
        **peak(device),
        **profile,
    }


def _trainer(step: Step, config: str, overrides: Sequence[str]) -> Trainer:
    fixed = ["MODEL.WEIGHTS", "", "MODEL.BACKBONE.PRETRAINED", "False"]
    cfg = load_config(REPO / "configs" / f"{config}.yaml", [*fixed, *overrides])
    torch.manual_seed(0)
    space = LabelSpace("shapes", CATEGORIES, (1, 2, 3))
    network = build_network(cfg, space).to(step.device).train()
    return Trainer(
        network,
        build_optimizer(cfg, network),
        Schedule(1000),
        lambda start: iter(()),
        step.device,
        options=StepOptions.from_config(cfg),
    )


def _steps(
    trainer: Trainer, count: int, frames: int, size: tuple[int, int], pool: int = 4
) -> dict[str, list[float]]:
    """Losses, gradient norms and seconds of steps on two clips each, without a loader."""
    batches = [[shape_clip(frames, size, 2 * k + n) for n in range(2)] for k in range(pool)]
    rows: dict[str, list[float]] = {"loss": [], "norm": [], "seconds": []}
    for k in range(count):
        wait(trainer.device)
        started = time.perf_counter()
        trainer.run_step(batches[k % pool])
        wait(trainer.device)
        rows["seconds"].append(time.perf_counter() - started)
        rows["loss"].append(sum(trainer.last.losses.values()))
        rows["norm"].append(trainer.last.gradient_norm)
    return rows


def train(step: Step) -> None:
    """Seconds of a training step; kernel against reference; a loss that falls."""
    size, frames = step.size(((360, 640), 5), ((64, 96), 2))
    rows: list[dict[str, Any]] = []
    for name, config in (
        ("seqformer", step.size("hq_ytvis/seqformer_R50", "quick/seqformer_tiny")),
        ("vmt", step.size("hq_ytvis/vmt_R50", "quick/vmt_tiny")),
    ):
        for precision in step.size(("bf16", "fp32", "fp16"), ("fp32",)):
            reset_peak(step.device)
            trainer = _trainer(step, config, ["ENGINE.PRECISION", precision])
            times = _steps(trainer, step.size(8, 1), frames, size)["seconds"]
            seconds = statistics.median(times[step.size(3, 0) :])
            rows.append({"network": name, "precision": precision, "seconds_per_step": seconds})
            rows[-1] |= {"clips_per_second": 2 / seconds, **peak(step.device)}
            step.put(rows=rows)
            del trainer
    first = {}
    for backend in ("auto", "reference"):
        with mock.patch.dict("os.environ", {"VMT_DEFORM_ATTN": backend}):
            first[backend] = _steps(_trainer(step, "quick/seqformer_tiny", []), 1, 2, (64, 96), 1)
    for number in ("loss", "norm"):
        one, other = (first[name][number][0] for name in ("auto", "reference"))
        step.put(**{f"{number}_kernel_against_reference": abs(one / other - 1)})
        if abs(one / other - 1) > 1e-2:
            raise StepError(f"{number} {one:.5g} with the kernel, {other:.5g} with the reference.")
    many = _steps(_trainer(step, "quick/seqformer_tiny", []), step.size(60, 2), 2, (64, 96))["loss"]
    step.put(losses=many)
    half = len(many) // 2
    if not step.dry and not sum(many[half:]) < sum(many[:half]):
        raise StepError("the loss of a small network does not fall in 60 steps.")
    text = ", ".join(f"{r['network']} {r['precision']} {r['seconds_per_step']:.3f} s" for r in rows)
    step.put(summary=text)


def discs(tracklets: int, frames: int, step: Step) -> tuple[np.ndarray, np.ndarray]:
    """(T, H, W, 3) frames and (N, T, H, W) coarse masks; the toy is what lies around a disc."""
    video = Discs(tracklets, frames)
    pictures, masks = np.stack(list(video.pictures())), np.stack(list(video.masks()), axis=1)
    if step.dry:
        y, x = (int(places.mean()) for places in masks[0, 0].nonzero())
        rows, columns = slice(max(y - 64, 0), y + 64), slice(max(x - 64, 0), x + 64)
        pictures, masks = pictures[:, rows, columns], masks[:, :, rows, columns]
    return pictures, masks


def refine(step: Step) -> None:
    """``vmt refine`` with the weights of the package, by number of tracklets."""
    rows: list[dict[str, Any]] = []
    refiner = vmt.MaskRefiner.from_pretrained(device=str(step.device))
    for tracklets in step.size((1, 5, 20), (1,)):
        frames, masks = discs(tracklets, step.size(30, 2), step)

        def call(frames: np.ndarray = frames, masks: np.ndarray = masks) -> None:
            refiner.refine(frames, masks)

        reset_peak(step.device)
        seconds = min(wall_seconds(call, step.device, 1, step.size(1, 0)))
        row = {"tracklets": tracklets, "frames_per_second": len(frames) / seconds}
        short = discs(tracklets, 4, step) if not step.dry else (frames, masks)
        rows.append(row | peak(step.device) | profiled(lambda s=short: call(*s), step.device))
        step.put(rows=rows)
    text = ", ".join(f"{r['tracklets']}: {r['frames_per_second']:.1f} frames/s" for r in rows)
    step.put(summary=f"tracklets {text}")


def end_to_end(step: Step) -> None:
    """A video file to overlay.mp4, results.json and tracks.csv, and where the time goes."""
    rows: list[dict[str, Any]] = []
    config = REPO / "configs" / f"{step.size(*NETWORKS['vmt_released_R50'])}.yaml"
    for window, overlay in step.size(((5, True), (36, True), (36, False)), ((2, True),)):
        args = argparse.Namespace(
            config_file=config,
            weights=None,
            device=str(step.device),
            frames=step.size(96, 3),
            min_size=step.size(360, 64),
            window=window,
            overlay=overlay,
            video=None,
        )
        reset_peak(step.device)
        size = step.size(bench_end_to_end.VIDEO_SIZE, (64, 96))
        with mock.patch.object(bench_end_to_end, "VIDEO_SIZE", size):
            row = bench_end_to_end.bench_pipeline(args)
        rows.append({"window": window, "overlay": overlay} | row)
        rows[-1] |= peak(step.device)
        step.put(rows=rows)
    best = max(row["frames_per_second"] for row in rows)
    step.put(summary=f"at best {best} frames/s from file to files")
