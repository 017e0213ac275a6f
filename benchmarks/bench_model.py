#!/usr/bin/env python3
"""Time and peak memory of the whole VMT R50 network on five frames.

Each measurement is a process of its own, so that its peak memory is its own too. The baseline is
the same network with the released computation of the refiner's decoder (every instance through all
four dilated branches over 69 channels) and attention with materialised weights, in the same run;
what else the release does per frame in a Python loop is not imitated.

Example:
  python benchmarks/bench_model.py --height 352 --width 640 --frames 5
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from unittest import mock

import torch
from common import benchmark_parser, machine, measure_apart, parse, run, write_json
from torch import Tensor

from vmt.inference.load import load_model

REPO = Path(__file__).resolve().parents[1]
CONFIG = REPO / "configs/hq_ytvis/vmt_R50_released.yaml"
VARIANTS = ("ours", "ours_bf16", "released_arithmetic")
DRY_RUN = {
    "config_file": REPO / "configs/quick/vmt_tiny_released.yaml",
    **{"height": 64, "width": 96, "frames": 2, "repeats": 0, "variants": VARIANTS[::2]},
}


def photo_clip(num_frames: int, height: int, width: int) -> Tensor:
    """A pan over a photograph that ships inside scikit-image: (T, 3, H, W) uint8."""
    import cv2
    import skimage.data

    photo = skimage.data.astronaut()
    large = cv2.resize(photo, (width + 8 * num_frames, height + 4 * num_frames))
    frames = [large[2 * t : 2 * t + height, 4 * t : 4 * t + width] for t in range(num_frames)]
    return torch.stack([torch.from_numpy(frame.copy()).permute(2, 0, 1) for frame in frames])


@contextmanager
def released_arithmetic() -> Iterator[None]:
    """Swap in the released way to compute the decoder and the attention, same numbers."""
    import torch.nn.functional as F

    from vmt.layers.dynamic_conv import apply_dynamic_layers
    from vmt.modeling.refiners import dense_band

    def decode(self, y, own, layers):  # type: ignore[no-untyped-def]
        frames = []
        for t, shared in enumerate(y):
            stacked = torch.cat([shared.expand(len(own), -1, -1, -1), own[:, t]], dim=1)
            total = sum(branch(stacked) for branch in self.branches)
            frames.append(apply_dynamic_layers(total, layers)[:, 0])
        return torch.stack(frames, 1)

    def attention(query, key, value, attn_mask=None, dropout_p=0.0, scale=None):  # type: ignore[no-untyped-def]
        assert attn_mask is None, "SeqFormer has no masked attention"
        scale = query.shape[-1] ** -0.5 if scale is None else scale
        return ((query * scale) @ key.transpose(-1, -2)).softmax(-1) @ value

    with (
        mock.patch.object(dense_band.DenseBand, "_decode", decode),
        mock.patch.object(F, "scaled_dot_product_attention", attention),
    ):
        yield


def measure(variant: str, args: argparse.Namespace) -> dict[str, object]:
    """Run one variant in this process."""
    with released_arithmetic() if variant == "released_arithmetic" else nullcontext():
        return timed(variant, args)


def timed(variant: str, args: argparse.Namespace) -> dict[str, object]:
    """Time and memory of a network."""
    torch.manual_seed(0)
    overrides = ["TEST.PRECISION", "bf16"] if variant == "ours_bf16" else []
    if args.weights is None:
        overrides += ["MODEL.WEIGHTS", ""]
    model = load_model(args.config_file, args.weights, overrides, args.device)
    clip = photo_clip(args.frames, args.height, args.width)
    seconds = []
    points: list[int] = []
    from vmt.modeling.refiners import dense_band

    select = dense_band.band_points

    def counted(union: Tensor, band: Tensor, max_points: int, counts: Sequence[int]) -> Tensor:
        points.extend(min(count, max_points) for count in counts)
        return select(union, band, max_points, counts)

    out = None
    with mock.patch.object(dense_band, "band_points", counted):
        for _ in range(args.repeats + 1):
            out = None
            start = time.perf_counter()
            out = model.segment_clip(clip)
            if args.device.startswith("cuda"):
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - start)
    assert out is not None
    if args.dump:
        torch.save({"query": out.query_index, "masks": out.mask_logits.float()}, args.dump)
    counting = seconds[1:] or seconds
    return {
        "variant": variant,
        "seconds_median": statistics.median(counting),
        "seconds_min": min(counting),
        "first_seconds": seconds[0],
        "frames_per_second": args.frames / statistics.median(counting),
        "peak_rss_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "tracklets": len(out),
        "points_per_frame": points[: args.frames],
    }


def largest_difference(a: Path, b: Path) -> dict[str, object]:
    """How far the masks of two variants are apart, on the queries both selected."""
    first, second = torch.load(a), torch.load(b)
    common = [q for q in first["query"].tolist() if q in second["query"].tolist()]
    rows = [[d["query"].tolist().index(q) for q in common] for d in (first, second)]
    x, y = first["masks"][rows[0]], second["masks"][rows[1]]
    return {
        "queries_in_common": len(common),
        "of": len(first["query"]),
        "largest_relative": ((x - y).abs() / (1 + y.abs())).max().item() if common else None,
        "pixels_that_flip": ((x > 0) != (y > 0)).float().mean().item() if common else None,
    }


def compare(
    args: argparse.Namespace, folder: Path
) -> tuple[list[dict[str, object]], dict[str, object]]:
    """Every variant in a process of its own, and how far its masks are from the released ones."""
    rows, dumps = [], {}
    for variant in args.variants:
        dumps[variant] = folder / f"{variant}.pt"
        words = ["--variant", variant, "--dump", str(dumps[variant])]
        for name in ("height", "width", "frames", "repeats", "device", "config_file", "weights"):
            value = getattr(args, name)
            if value is not None:
                words += [f"--{name.replace('_', '-')}", str(value)]
        print(f"{variant} ...", flush=True)
        row = measure_apart(__file__, main, words, args.dry_run)
        rows.append(row)
        print(
            f"  {row['seconds_median']:.2f} s  {row['frames_per_second']:.2f} frames/s  "
            f"{row['peak_rss_gb']:.2f} GB",
            flush=True,
        )
    agreement: dict[str, object] = {
        variant: largest_difference(dumps[variant], dumps["released_arithmetic"])
        for variant in ("ours", "ours_bf16")
        if {variant, "released_arithmetic"} <= set(dumps)
    }
    return rows, agreement


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every variant in a process of its own, print and store a table."""
    parser = benchmark_parser(__doc__, "model_cpu.json")
    parser.add_argument("--height", type=int, default=352)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--frames", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--config-file", type=Path, default=CONFIG)
    parser.add_argument("--weights", help="weight file; random weights without it")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=VARIANTS)
    parser.add_argument("--variant", choices=VARIANTS, help=argparse.SUPPRESS)
    parser.add_argument("--dump", help=argparse.SUPPRESS)
    args = parse(parser, argv, DRY_RUN)
    if args.variant:
        print(json.dumps(measure(args.variant, args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        rows, agreement = compare(args, Path(folder))
    print(json.dumps(agreement, indent=1))
    size = {k: getattr(args, k) for k in ("height", "width", "frames")}
    output = args.output
    if args.device.startswith("cuda") and output.name == "model_cpu.json":
        output = output.with_name("model_cuda.json")
    write_json(
        output,
        {"machine": machine(), "input": size, "rows": rows, "against_release": agreement},
    )


if __name__ == "__main__":
    sys.exit(run(main))
