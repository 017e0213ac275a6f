"""The GPU kernels, run on the CPU thread by thread: arithmetic, barriers, shuffles, grids."""

from __future__ import annotations

import pytest
import torch

from tests.conftest import REPO, load_module
from tests.ops.deform_attn_cases import (
    Case,
    FusedCase,
    assert_near,
    cast,
    fused_reference_results,
    make_case,
    make_fused_case,
    reference_results,
)
from tests.ops.deform_attn_emulator import (
    BF16,
    F16,
    F32,
    F64,
    FUSED_TYPES,
    TYPES,
    WIDTHS,
    emulate,
    needs_emulator,
    order_of_queries,
    queries_of_a_block,
    with_widths,
)
from vmt.ops.deform_attn import cuda
from vmt.ops.deform_attn.places import place_gradients

pytestmark = needs_emulator
#: Odd sizes, a single cell, a row: taps outside on one side, on both, on none.
ODD_SHAPES = ((5, 7), (1, 1), (1, 6), (3, 2))
BACKWARDS = [cuda.BACKWARD, cuda.BACKWARD_TILED]


def skip_without(kernel: str, value_type: torch.dtype, channels: int) -> None:
    wide = channels > cuda.TILED_CHANNELS or value_type == F64
    if kernel == cuda.BACKWARD_TILED and wide:
        pytest.skip("no tiled kernel")


def spoil(case: Case) -> None:
    """Places that are no numbers, or far away."""
    case.locations[0, 1, 0, 0, 0, 0] = float("nan")
    case.locations[0, 1, 0, 1, 1, 1] = float("inf")
    case.locations[1, 2, 1, 0, 2] = 1e4 if case.locations.dtype == F16 else 1e30


@pytest.mark.parametrize(("types", "channels"), with_widths(TYPES))
@pytest.mark.parametrize("shapes", [((6, 4), (3, 5)), ODD_SHAPES])
def test_forward(types: tuple[torch.dtype, torch.dtype], channels: int, shapes) -> None:
    # Nine points: more samples than one chunk holds.
    case = cast(make_case(channels=channels, points=9, queries=5, spatial_shapes=shapes), *types)
    spoil(case)
    (out,) = emulate(case, cuda.FORWARD)
    assert_near(out, reference_results(case)[0])


@pytest.mark.parametrize("kernel", BACKWARDS)
@pytest.mark.parametrize(("types", "channels"), with_widths(TYPES))
@pytest.mark.parametrize("shapes", [((6, 4), (3, 5)), ODD_SHAPES])
def test_backward(
    types: tuple[torch.dtype, torch.dtype], channels: int, shapes, kernel: str
) -> None:
    skip_without(kernel, types[0], channels)
    case = cast(make_case(channels=channels, points=9, queries=5, spatial_shapes=shapes), *types)
    spoil(case)
    for one, other in zip(emulate(case, kernel), reference_results(case)[1:], strict=True):
        assert_near(one, other)


def fused_case(types: tuple[torch.dtype, torch.dtype], **sizes: object) -> FusedCase:
    """Places lie in the type of the sums, whatever the logits."""
    case = make_fused_case(points=5, **sizes).cast(*types, F64 if types[0] == F64 else F32)
    case.offsets[0, 1, 0, 0, 0, 0] = float("nan")
    case.offsets[1, 2, 1, 0, 2] = float("-inf")
    return case


@pytest.mark.parametrize("axes", [2, 4])
@pytest.mark.parametrize(("types", "channels"), with_widths(FUSED_TYPES))
def test_fused_forward(types: tuple[torch.dtype, torch.dtype], channels: int, axes: int) -> None:
    case = fused_case(types, axes=axes, channels=channels, queries=5, spatial_shapes=ODD_SHAPES)
    (out,) = emulate(case, cuda.FORWARD)
    assert_near(out, fused_reference_results(case)[0])


@pytest.mark.parametrize("kernel", BACKWARDS)
@pytest.mark.parametrize("axes", [2, 4])
@pytest.mark.parametrize(("types", "channels"), with_widths(FUSED_TYPES))
def test_fused_backward(
    types: tuple[torch.dtype, torch.dtype], channels: int, axes: int, kernel: str
) -> None:
    skip_without(kernel, types[0], channels)
    case = fused_case(types, axes=axes, channels=channels, queries=5, spatial_shapes=ODD_SHAPES)
    grad_value, grad_pixels, grad_logits = emulate(case, kernel)
    grad_offsets, grad_reference = place_gradients(
        grad_pixels, case.flat_shapes, case.offsets, case.reference, reference_grad=True
    )
    grads = (grad_value, grad_offsets, grad_logits, grad_reference)
    for one, other in zip(grads, fused_reference_results(case)[1:], strict=True):
        assert_near(one, other, more=4.0)


@pytest.mark.parametrize("channels", WIDTHS)
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kernel", [cuda.FORWARD, *BACKWARDS])
def test_the_order_of_threads_does_not_matter(kernel: str, fused: bool, channels: int) -> None:
    """The last thread first, and blocks that go on to a second tile."""
    skip_without(kernel, F32, channels)
    sizes = {"batch": 3, "queries": 5, "heads": 2, "channels": channels, "points": 9}
    case = make_fused_case(dtype=F32, **sizes) if fused else make_case(dtype=F32, **sizes)
    first, last = emulate(case, kernel), emulate(case, kernel, last_first=True)
    for one, other in zip(first, last, strict=True):
        assert_near(one, other)


def test_one_row_of_reference_points_serves_all_images() -> None:
    case = make_fused_case(channels=32, dtype=F32)
    case.reference = case.reference[:1].expand_as(case.reference)
    (out,) = emulate(case, cuda.FORWARD)
    assert_near(out, fused_reference_results(case)[0])


@pytest.mark.parametrize("kernel", [cuda.FORWARD, *BACKWARDS])
def test_a_sample_outside_does_not_read_a_broken_corner(kernel: str) -> None:
    case = make_case(channels=32, dtype=F32)
    case.value[:, 0] = float("nan")
    case.locations[:] = -2.0
    for result in emulate(case, kernel):
        assert (result == 0).all()


@pytest.mark.parametrize("channels", [6, 20, 32, 33])
def test_many_queries_share_the_sums_of_a_block(channels: int) -> None:
    """Several blocks and rounds, the last ones not full; more tokens than rows of sums."""
    case = make_case(batch=2, queries=150, heads=2, channels=channels, points=3,
                     spatial_shapes=((25, 30), (6, 7)), dtype=F32)  # fmt: skip
    plain, tiled = emulate(case, cuda.BACKWARD), emulate(case, cuda.BACKWARD_TILED)
    for one, other, exact in zip(plain, tiled, reference_results(case)[1:], strict=True):
        assert_near(one, exact)
        assert_near(other, exact)


#: Levels lower and higher than strips of 4 and 8 rows.
STRIPED_SHAPES = ((13, 5), (4, 4), (3, 6), (1, 2))


def in_strips(rows: int) -> list[int]:
    """The cells of these levels, strip by strip, column by column."""
    order, start = [], 0
    for height, width in STRIPED_SHAPES:
        for top in range(0, height, rows):
            for x in range(width):
                order += [start + y * width + x for y in range(top, min(top + rows, height))]
        start += height * width
    return order


@pytest.mark.parametrize(("queries_of_a_block", "rows"), [(16, 4), (32, 4), (128, 8)])
def test_the_queries_of_an_encoder_come_in_squares(queries_of_a_block: int, rows: int) -> None:
    tokens = sum(h * w for h, w in STRIPED_SHAPES)
    sizes = {"channels": 1, "spatial_shapes": STRIPED_SHAPES, "dtype": F32}
    encoder, decoder = (make_case(queries=count, **sizes) for count in (tokens, tokens - 1))
    assert order_of_queries(encoder, queries_of_a_block) == in_strips(rows)
    simulated = load_module(REPO / "benchmarks/gpu_cache.py").in_squares(STRIPED_SHAPES, rows)
    assert simulated == in_strips(rows)
    assert order_of_queries(decoder, queries_of_a_block) == list(range(tokens - 1))


@pytest.mark.parametrize("channels", [20, 32])
@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("kernel", [cuda.FORWARD, *BACKWARDS])
def test_an_encoder_in_squares(kernel: str, fused: bool, channels: int) -> None:
    """Every query is served once: outputs that nobody writes hold sevens."""
    sizes = {"queries": sum(h * w for h, w in STRIPED_SHAPES), "channels": channels, "points": 3}
    sizes |= {"spatial_shapes": STRIPED_SHAPES, "dtype": F32}
    case = make_fused_case(**sizes) if fused else make_case(**sizes)
    exact = fused_reference_results(case) if fused else reference_results(case)
    found = emulate(case, kernel)
    if fused and kernel != cuda.FORWARD:
        grad_offsets, _ = place_gradients(
            found[1], case.flat_shapes, case.offsets, case.reference, reference_grad=False
        )
        found, exact = (found[0], grad_offsets, found[2]), exact[:4]
    for one, other in zip(found, exact if kernel == cuda.FORWARD else exact[1:], strict=False):
        assert_near(one, other, more=4.0)


@pytest.mark.parametrize(("types", "channels"), with_widths(TYPES))
@pytest.mark.parametrize("kernel", [cuda.FORWARD, *BACKWARDS])
def test_the_grid_covers_every_query(
    types: tuple[torch.dtype, torch.dtype], channels: int, kernel: str
) -> None:
    skip_without(kernel, types[0], channels)
    assert cuda.queries_per_block(types[0], channels, kernel) == queries_of_a_block(
        *types, channels, kernel
    )


def test_where_the_sums_of_a_block_are_worth_it() -> None:
    value = torch.empty(2, 30, 1, 32)
    assert cuda.backward_kernel(value, 30) == cuda.BACKWARD_TILED
    assert cuda.backward_kernel(value, 29) == cuda.BACKWARD  # a decoder
    assert cuda.backward_kernel(value.double(), 30) == cuda.BACKWARD
    assert cuda.backward_kernel(torch.empty(2, 30, 1, 65), 30) == cuda.BACKWARD


@pytest.mark.parametrize(("types", "channels"), with_widths(TYPES))
def test_the_tiled_kernel_is_there_where_it_is_chosen(
    types: tuple[torch.dtype, torch.dtype], channels: int
) -> None:
    fits = queries_of_a_block(*types, channels, cuda.BACKWARD_TILED) > 0
    value = torch.empty(1, 1, 1, channels, dtype=types[0])
    assert (cuda.backward_kernel(value, 1) == cuda.BACKWARD_TILED) == fits


@pytest.mark.parametrize("dtype", [F16, BF16])
def test_the_emulator_rounds_as_torch_does(dtype: torch.dtype) -> None:
    """Sampled at the centre of every token, times 3/4: all finite numbers of 16 bits."""
    every = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    numbers = every[every.isfinite()]
    count = len(numbers) // 32
    value = numbers[: 32 * count].view(count, 1, 1, 32).contiguous()
    param = dtype if dtype == F16 else F32
    places = torch.full((count, 1, 1, 1, 1, 2), 0.5, dtype=param)
    weights = torch.full((count, 1, 1, 1, 1), 0.75, dtype=param)
    case = Case(value, [(1, 1)], places, weights, torch.zeros(count, 1, 32, dtype=dtype))
    expected = (value.float() * 0.75).to(dtype)
    assert torch.equal(emulate(case, cuda.FORWARD)[0].flatten(), expected.flatten())
