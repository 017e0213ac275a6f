#!/usr/bin/env python3
"""Time multi-scale deformable attention on the CPU: the PyTorch reference against the kernel.

Shapes are those of the model at 360x640 and five frames: the encoder reads 4820 tokens at 4820
queries, the decoder at 300. The machine may be shared, so both sides are timed in turn and the
ratio is the median over the pairs, not the ratio of two medians.

Example:
    python benchmarks/bench_deform_attn.py --repeats 9 --threads 2
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from common import benchmark_parser, machine, parse, run, write_json
from torch import Tensor

from vmt.ops import ms_deform_attn
from vmt.ops.deform_attn import describe_backend

DRY_RUN = {"repeats": 1, "warm_calls": 0, "shapes": [(4, 6), (2, 3)]}
SPATIAL_SHAPES = [(45, 80), (23, 40), (12, 20), (6, 10)]
FRAMES, HEADS, CHANNELS, POINTS = 5, 8, 32, 4
Shapes = Sequence[tuple[int, int]]
DECODER_QUERIES = 300
# Offsets of trained encoders reach a few cells.
ENCODER_SPREAD_CELLS = 3.0
# Untimed calls before each timed one.
WARM_CALLS = 3


@dataclass
class Arguments:
    """Inputs of one call and a gradient for its output."""

    shapes: Shapes
    value: Tensor
    locations: Tensor
    weights: Tensor
    grad_out: Tensor

    @property
    def inputs(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the call differentiates."""
        return self.value, self.locations, self.weights


def encoder_locations(shapes: Shapes, generator: torch.Generator) -> Tensor:
    """Return (B, S, M, L, K, 2): every token looks around its own place, on every level."""
    centres = []
    for height, width in shapes:
        y = (torch.arange(height) + 0.5) / height
        x = (torch.arange(width) + 0.5) / width
        grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)
        centres.append(grid.flatten(0, 1))
    reference = torch.cat(centres)[None, :, None, None, None]
    sizes = torch.tensor([(w, h) for h, w in shapes])[None, None, None, :, None]
    shape = (FRAMES, reference.shape[1], HEADS, len(shapes), POINTS, 2)
    noise = torch.randn(shape, generator=generator)
    return reference + ENCODER_SPREAD_CELLS * noise / sizes


def scattered_locations(shapes: Shapes, queries: int, generator: torch.Generator) -> Tensor:
    """Return (B, Q, M, L, K, 2) anywhere on the maps: no query looks where its neighbour does."""
    shape = (FRAMES, queries, HEADS, len(shapes), POINTS, 2)
    return torch.rand(shape, generator=generator)


def make_arguments(shapes: Shapes, locations: Tensor, generator: torch.Generator) -> Arguments:
    """Draw value, weights (a softmax over L*K) and gradient to go with the locations."""
    tokens = sum(height * width for height, width in shapes)
    logits = torch.randn(locations.shape[:-1], generator=generator)
    weights = logits.flatten(3).softmax(-1).view_as(logits)
    return Arguments(
        shapes=shapes,
        value=torch.randn(FRAMES, tokens, HEADS, CHANNELS, generator=generator),
        locations=locations,
        weights=weights,
        grad_out=torch.randn(FRAMES, locations.shape[1], HEADS * CHANNELS, generator=generator),
    )


def forward(arguments: Arguments, backend: str) -> None:
    """Run the forward pass alone."""
    value, locations, weights = arguments.inputs
    with torch.no_grad():
        ms_deform_attn(value, arguments.shapes, locations, weights, backend=backend)


def forward_backward(arguments: Arguments, backend: str) -> None:
    """Run both passes, with the gradients of all three inputs."""
    leaves = [x.detach().requires_grad_() for x in arguments.inputs]
    out = ms_deform_attn(leaves[0], arguments.shapes, leaves[1], leaves[2], backend=backend)
    torch.autograd.grad(out, leaves, arguments.grad_out)


def floor_bytes(arguments: Arguments, *, backward: bool) -> int:
    """Return the bytes that must move at the least: every input read once, every output written.

    Args:
        arguments: the call.
        backward: count the forward and the backward pass, not the forward alone.
    """
    inputs = sum(x.nbytes for x in arguments.inputs)
    output = arguments.grad_out.nbytes
    # Backward reads the inputs and the gradient of the output, and writes a gradient per input.
    return inputs + output + (2 * inputs + output if backward else 0)


def time_pairs(
    run: Callable[[str], None], backends: Sequence[str], repeats: int, warm_calls: int
) -> dict[str, list[float]]:
    """Time the back ends in turn and return seconds per repeat.

    Each timed call follows untimed ones of the same back end: what a layer reads was just written
    by the one before it, so the caches should not hold the other back end's leftovers.
    """
    for backend in backends:
        run(backend)
    seconds: dict[str, list[float]] = {backend: [] for backend in backends}
    for _ in range(repeats):
        for backend in backends:
            for _ in range(warm_calls):
                run(backend)
            start = time.perf_counter()
            run(backend)
            seconds[backend].append(time.perf_counter() - start)
    return seconds


def measure(
    name: str, arguments: Arguments, repeats: int, warm_calls: int
) -> list[dict[str, object]]:
    """Time one set of arguments, forward and with backward, and return a row for each."""
    rows: list[dict[str, object]] = []
    for direction, function in (("forward", forward), ("forward+backward", forward_backward)):
        seconds = time_pairs(
            lambda backend, function=function: function(arguments, backend),  # type: ignore[misc]
            ("reference", "cpu"),
            repeats,
            warm_calls,
        )
        ratios = [r / c for r, c in zip(seconds["reference"], seconds["cpu"], strict=True)]
        kernel = statistics.median(seconds["cpu"])
        floor = floor_bytes(arguments, backward=direction != "forward")
        rows.append(
            {
                "case": name,
                "queries": arguments.locations.shape[1],
                "direction": direction,
                "reference_ms": round(1e3 * statistics.median(seconds["reference"]), 3),
                "kernel_ms": round(1e3 * kernel, 3),
                "ratio_median_of_pairs": round(statistics.median(ratios), 2),
                "ratio_min": round(min(ratios), 2),
                "ratio_max": round(max(ratios), 2),
                "floor_mb": round(floor / 1e6, 1),
                "kernel_gb_per_s": round(floor / kernel / 1e9, 2),
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, print a table and write the result file."""
    parser = benchmark_parser(__doc__, "deform_attn_cpu.json")
    parser.add_argument("--repeats", type=int, default=9, help="timed pairs per row (default 9)")
    parser.add_argument("--threads", type=int, default=None, help="CPU threads (default: torch's)")
    parser.set_defaults(shapes=SPATIAL_SHAPES, warm_calls=WARM_CALLS)
    args = parse(parser, argv, DRY_RUN)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    report = describe_backend()
    if not report.backends["cpu"].available:
        print(f"The CPU kernel cannot be timed: {report.backends['cpu'].reason}.", file=sys.stderr)
        return 2
    generator = torch.Generator().manual_seed(0)
    cases = {
        "encoder": encoder_locations(args.shapes, generator),
        "encoder, scattered": scattered_locations(
            args.shapes, sum(h * w for h, w in args.shapes), generator
        ),
        "decoder": scattered_locations(args.shapes, DECODER_QUERIES, generator),
    }
    print(
        f"{machine()['cpu']}, {report.cpu_isa}, {report.cpu_threads} threads, "
        f"torch {torch.__version__}"
    )
    print(f"{'case':20} {'direction':17} {'reference':>12} {'kernel':>10} {'ratio':>7} {'GB/s':>6}")
    rows = []
    for name, locations in cases.items():
        drawn = make_arguments(args.shapes, locations, generator)
        for row in measure(name, drawn, args.repeats, args.warm_calls):
            rows.append(row)
            print(
                f"{row['case']:20} {row['direction']:17} {row['reference_ms']:>9} ms "
                f"{row['kernel_ms']:>7} ms {row['ratio_median_of_pairs']:>6}x "
                f"{row['kernel_gb_per_s']:>6}",
                flush=True,
            )
    print("GB/s: bytes that must move at the least (inputs once, outputs once) over kernel time.")
    write_json(
        args.output,
        {
            "what": "multi-scale deformable attention, float32, PyTorch reference against kernel",
            "machine": machine() | {"isa": report.cpu_isa},
            "shape": {
                "batch": FRAMES,
                "spatial_shapes": args.shapes,
                "heads": HEADS,
                "channels": CHANNELS,
                "points": POINTS,
            },
            "repeats": args.repeats,
            "untimed_calls_before_each": args.warm_calls,
            "rows": rows,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
