#!/usr/bin/env python3
"""Time multi-scale deformable attention on a GPU: kernels, reference and compiled reference.

Bytes per second count every input once and every output once; a device-to-device copy on the same
GPU shows what its memory can do. Times are medians over CUDA events.

Example:
    python benchmarks/bench_deform_attn_cuda.py --repeats 50
"""

import statistics
import sys
from collections.abc import Callable, Sequence

import torch
from bench_deform_attn import (
    DECODER_QUERIES,
    SPATIAL_SHAPES,
    Arguments,
    encoder_locations,
    floor_bytes,
    make_arguments,
    scattered_locations,
)
from common import benchmark_parser, machine, parse, run, write_json
from torch import Tensor

from vmt.ops import ms_deform_attn
from vmt.ops.deform_attn import describe_backend, ms_deform_attn_reference

WARM_UPS = 5
COPY_BYTES = 1 << 30  # far more than any cache holds

Operator = Callable[[Tensor, Tensor, Tensor], Tensor]


def kernel(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Call the CUDA kernel."""
    return ms_deform_attn(value, SPATIAL_SHAPES, locations, weights, backend="cuda")


def reference(value: Tensor, locations: Tensor, weights: Tensor) -> Tensor:
    """Call the plain PyTorch form."""
    return ms_deform_attn_reference(value, SPATIAL_SHAPES, locations, weights)


def event_ms(run: Callable[[], object], repeats: int) -> float:
    """Return the median milliseconds of ``run`` on the GPU, after a warm-up."""
    for _ in range(WARM_UPS):
        run()
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return statistics.median(times)


def copy_gb_per_s(repeats: int) -> float:
    """Return the bytes per second of a device-to-device copy, reads and writes together."""
    source = torch.empty(COPY_BYTES, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    milliseconds = event_ms(lambda: target.copy_(source), repeats)
    return 2 * COPY_BYTES / (milliseconds * 1e-3) / 1e9


def to_gpu(arguments: Arguments, dtype: torch.dtype) -> Arguments:
    """Move the inputs; locations and weights stay float32, as they are under autocast."""
    return Arguments(
        shapes=arguments.shapes,
        value=arguments.value.to("cuda", dtype),
        locations=arguments.locations.cuda(),
        weights=arguments.weights.cuda(),
        grad_out=arguments.grad_out.to("cuda", dtype),
    )


def time_operator(operator: Operator, arguments: Arguments, repeats: int) -> tuple[float, float]:
    """Return the milliseconds of the forward pass and of the backward pass."""
    with torch.no_grad():
        forward_ms = event_ms(lambda: operator(*arguments.inputs), repeats)
    leaves = [x.detach().requires_grad_() for x in arguments.inputs]
    out = operator(*leaves)
    backward_ms = event_ms(
        lambda: torch.autograd.grad(out, leaves, arguments.grad_out, retain_graph=True), repeats
    )
    return forward_ms, backward_ms


def measure(
    name: str, arguments: Arguments, operators: dict[str, Operator], repeats: int
) -> list[dict[str, object]]:
    """Time every operator on one set of arguments and return a row for each pass."""
    forward_bytes = floor_bytes(arguments, backward=False)
    floors = {
        "forward": forward_bytes,
        "backward": floor_bytes(arguments, backward=True) - forward_bytes,
    }
    times = {key: time_operator(call, arguments, repeats) for key, call in operators.items()}
    rows: list[dict[str, object]] = []
    for index, (direction, floor) in enumerate(floors.items()):
        milliseconds = {key: pair[index] for key, pair in times.items()}
        own = milliseconds["kernel"]
        rows.append(
            {
                "case": name,
                "dtype": str(arguments.value.dtype).removeprefix("torch."),
                "direction": direction,
                **{f"{key}_ms": round(value, 4) for key, value in milliseconds.items()},
                "ratio_to_reference": round(milliseconds["reference"] / own, 2),
                "ratio_to_compiled": round(milliseconds["compiled"] / own, 2),
                "floor_mb": round(floor / 1e6, 1),
                "kernel_gb_per_s": round(floor / (own * 1e-3) / 1e9, 1),
            }
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, print a table and write the result file."""
    parser = benchmark_parser(__doc__, "deform_attn_cuda.json")
    parser.add_argument("--repeats", type=int, default=50, help="timed runs (default 50)")
    args = parse(parser, argv, {"repeats": 1})
    status = describe_backend().backends["cuda"]
    if not status.available:
        print(f"Nothing to time: {status.reason}.", file=sys.stderr)
        return 2
    generator = torch.Generator().manual_seed(0)
    cases = {
        "encoder": encoder_locations(SPATIAL_SHAPES, generator),
        "decoder": scattered_locations(SPATIAL_SHAPES, DECODER_QUERIES, generator),
    }
    operators: dict[str, Operator] = {
        "kernel": kernel,
        "reference": reference,
        "compiled": torch.compile(reference, dynamic=False),
    }
    copy_speed = copy_gb_per_s(args.repeats)
    print(f"{torch.cuda.get_device_name()}, copy {copy_speed:.0f} GB/s")
    print(f"{'case':8} {'type':9} {'pass':9} {'kernel':>10} {'vs reference':>13} "
          f"{'vs compiled':>12} {'of copy':>8}")  # fmt: skip
    rows = []
    for name, locations in cases.items():
        drawn = make_arguments(SPATIAL_SHAPES, locations, generator)
        for dtype in (torch.float32, torch.bfloat16):
            for row in measure(name, to_gpu(drawn, dtype), operators, args.repeats):
                row["share_of_copy"] = round(float(str(row["kernel_gb_per_s"])) / copy_speed, 3)
                rows.append(row)
                print(
                    f"{row['case']:8} {row['dtype']:9} {row['direction']:9} "
                    f"{row['kernel_ms']:>7} ms {row['ratio_to_reference']:>12}x "
                    f"{row['ratio_to_compiled']:>11}x {row['share_of_copy']:>8}",
                    flush=True,
                )
    write_json(
        args.output,
        {
            "what": "multi-scale deformable attention on a GPU",
            "machine": machine(),
            "copy_gb_per_s": round(copy_speed, 1),
            "repeats": args.repeats,
            "rows": rows,
        },
    )
    return 0


if __name__ == "__main__":
    sys.exit(run(main))
