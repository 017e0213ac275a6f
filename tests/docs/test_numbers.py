"""Numbers in the tables of the pages are those of the result files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.docs.blocks import REPO
from vmt.checkpoint.zoo import zoo_file

#: A decimal number that stands alone: not the 50 of R50, nor a size like 352x640.
NUMBER = re.compile(r"(?<![\w.])\d+(?:,\d{3})*(?:\.\d+)?(?![\w.]*\d)")


def rows() -> dict[str, list[str]]:
    """First cell -> the other cells of the table "Measured"."""
    section = (REPO / "benchmarks/README.md").read_text().split("## Measured")[1].split("\n## ")[0]
    cells = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in cells[2:]}


def result(name: str) -> Any:
    return json.loads((REPO / f"benchmarks/results/{name}.json").read_text())


def pick(table: list[dict[str, Any]], **keys: Any) -> dict[str, Any]:
    (row,) = [row for row in table if all(row[key] == value for key, value in keys.items())]
    return row


def model(data: Any) -> list[float]:
    ours, bf16, released = (
        pick(data["rows"], variant=name) for name in ("ours", "ours_bf16", "released_arithmetic")
    )
    return [row[key] for row in (ours, bf16, released) for key in ("seconds_median", "peak_rss_gb")]


def attention(case: str) -> Callable[[Any], list[float]]:
    def values(data: Any) -> list[float]:
        passes = [
            pick(data["rows"], case=case, direction=name)
            for name in ("forward", "forward+backward")
        ]
        keys = ("kernel_ms", "reference_ms", "ratio_median_of_pairs")
        return [row[key] for key in keys for row in passes]

    return values


def gpu_instructions(data: Any) -> list[float]:
    ours = [
        pick(data["rows"], arch=90, type=name, fused=False, kernel="forward")
        for name in ("float32", "bfloat16")
    ]
    (theirs,) = [r for r in data["original"] if r["arch"] == 90 and "im2col" in r["kernel"]]
    return [row["loop_per_sample"] for row in (*ours, theirs)]


def gpu_cache(data: Any) -> list[float]:
    ours = [pick(data["cache_misses_simulated"], type=name) for name in ("bfloat16", "float32")]
    return [row[f"l2_megabytes_in_{order}"] for order in ("squares", "rows") for row in ours]


def scoring(metric: str, extra: list[float]) -> Callable[[Any], list[float]]:
    def values(data: Any) -> list[float]:
        ours = pick(data["rows"], name=f"{metric} ours, 1 process(es)")
        slow = pick(data["rows"], name=f"{metric} baseline")
        numbers = [ours["seconds_full_set"], ours["peak_mib"]]
        numbers += [slow["seconds_full_set"], slow["peak_mib"]]
        return [*numbers, *extra, slow["videos_measured"], ours["times_faster"]]

    return values


def mots(data: Any) -> list[float]:
    ours, slow = data["contenders"]["cocoapi_hq"], data["contenders"]["baseline"]
    pairs = [row[key] for row in (ours, slow) for key in ("seconds", "peak_mib")]
    return [*pairs, ours["times_baseline"]]


def refiner(data: Any) -> list[float]:
    def of(variant: str, tracklets: int) -> dict[str, Any]:
        return pick(data["table"], variant=variant, tracklets=tracklets, height=352)

    one, five, band = of("quadtree", 1), of("quadtree", 5), of("dense_band", 1)
    numbers = [row[key] for row in (one, band) for key in ("seconds", "peak_mb")]
    keys = ("dense_band_seconds_over_this", "dense_band_peak_mb_over_this")
    return [*numbers, *(row[key] for row in (one, five) for key in keys)]


def masks(kind: str, methods: list[str], slower: bool) -> Callable[[Any], list[float]]:
    def values(data: Any) -> list[float]:
        means = {name: pick(data["means"], kind=kind, method=name, seed=0) for name in methods}
        numbers = [row["boundary_iou_2%"] for row in means.values()]
        if slower:
            key = "cpu_seconds_per_mask"
            seconds = means["ours"][key] / means["grab_cut"][key]
            numbers.insert(1, seconds)
        return numbers

    return values


def memory(data: Any) -> list[float]:
    return [data["rss_mb_first_half"], data["rss_mb_second_half"]]


#: Beginning of a row -> its numbers behind the first cell, in order.
EXPECTED: dict[str, Callable[[Any], list[float]]] = {
    "VMT R50": model,
    "Deformable attention, encoder": attention("encoder"),
    "the same, decoder": attention("decoder"),
    "the same on a GPU": gpu_instructions,
    "bytes that it asks of the second cache": gpu_cache,
    "Tube boundary AP": scoring("tube_boundary", []),
    "Tube mask AP": scoring("tube_mask", []),
    "BDD100K MOTS": mots,
    "Refinement stage": refiner,
    "`vmt refine`": masks("halo", ["ours", "grab_cut", "guided_filter"], slower=True),
    "Memory over": memory,
}


@pytest.mark.parametrize("start", EXPECTED)
def test_a_row_says_what_its_file_says(start: str) -> None:
    (cells,) = [cells for label, cells in rows().items() if label.startswith(start)]
    *texts, name = cells
    numbers = [text.replace(",", "") for cell in texts for text in NUMBER.findall(cell)]
    values = EXPECTED[start](result(name.strip("`")))
    assert len(numbers) == len(values), f"{numbers} against {values}"
    for number, value in zip(numbers, values, strict=True):
        decimals = len(number.partition(".")[2])
        assert abs(float(number) - value) <= 0.5001 * 10**-decimals, f"{number} against {value}"


def test_every_row_is_compared() -> None:
    assert all(any(label.startswith(start) for start in EXPECTED) for label in rows())


@pytest.mark.parametrize(("start", "kind"), [("`vmt refine`", "halo")])
def test_given_masks_of_the_first_cell(start: str, kind: str) -> None:
    (label,) = [label for label in rows() if label.startswith(start)]
    given = pick(result("mask_refinement")["means"], kind=kind, method="coarse", seed=0)
    assert f"boundary IoU {given['boundary_iou_2%']:.3f} before" in label or (
        f"{given['boundary_iou_2%']:.3f} before" in label
    )


KINDS = {
    **{"halo of 5 px": "halo", "section 5": "paper", "1/8 resolution": "low_res"},
    **{"polygon of 11 to 19 corners": "polygon", "1/4 resolution": "low_res:4"},
    **{"a frame late": "lag", "holes and specks": "holes", "matte, cut": "matte"},
}
METHODS = {
    **{"as given": "coarse", "guided filter": "guided_filter", "GrabCut": "grab_cut"},
    **{"ours": "ours", "ours, each frame alone": "single_frames"},
}


def test_weights_of_readme() -> None:
    """Scores are those of the zoo, speeds and the gain of a halo those of the result files."""
    section = (REPO / "README.md").read_text().split("## Weights")[1]
    lines = [line for line in section.splitlines() if line.startswith("| ")][1:]
    sizes = ("r50", "r101", "swinl")
    for file in map(zoo_file, (f"vmt_{size}" for size in sizes)):
        (line,) = [line for line in lines if f"`{file.name}`" in line]
        assert f"AP^B {file.expected['AP^B']}, AP^M {file.expected['AP^M']}" in line
        assert file.page in line
    aps = [str(zoo_file(f"seqformer_{size}").expected["AP"]) for size in sizes]
    assert f"AP {', '.join(aps)} on" in lines[-1]
    speed = pick(result("model_cpu")["rows"], variant="ours")["frames_per_second"]
    assert f"{speed:.2f} frames/s at 352x640" in section
    ours = pick(result("mask_refinement")["means"], kind="halo", method="ours", seed=0)
    assert f"{ours['cpu_seconds_per_mask']:.1f} s of CPU time per mask" in section
    halo = [
        pick(result("mask_refinement")["means"], kind="halo", method=name, seed=0)[
            "boundary_iou_2%"
        ]
        for name in ("coarse", "ours")
    ]
    assert "boundary IoU {:.3f} -> {:.3f}".format(*halo) in section


def test_the_table_of_mask_refiner_md() -> None:
    text = (REPO / "docs/studies/mask_refiner.md").read_text()
    table = text.split("| input | method |")[1].split("\n\n")[0]
    kind, seen, means = "", set(), result("mask_refinement")["means"]
    for line in table.splitlines()[2:]:
        label, method, *cells, better = (cell.strip() for cell in line.strip("|").split("|"))
        kind = KINDS.get(label, label) or kind
        row = pick(means, kind=kind, method=METHODS[method], seed=0)
        keys = ("tube_iou", "boundary_iou_2%", "boundary_iou_0.5%", "J&F", "stability")
        for cell, key in zip(cells, keys, strict=True):
            assert abs(float(cell.strip("*")) - row[key]) <= 0.00056, (kind, method, key)
        if better:
            count = row["tracklets"]
            assert better == f"{count - len(row['worse'])} of {count}", (kind, method)
        seen.add((kind, METHODS[method]))
    assert seen == {(row["kind"], row["method"]) for row in means if row["seed"] == 0}


def test_the_table_of_msts_md() -> None:
    text = (REPO / "docs/studies/msts.md").read_text()
    table = text.split("| | SeqFormer | MS-STS lean | |")[1].split("\n\n")[0]
    found = result("msts_cpu")["rows"]
    for line in table.splitlines()[2:]:
        label, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        mode = "train" if label.startswith("training") else "test"
        frames = int(re.search(r"T = (\d+)", label).group(1))  # type: ignore[union-attr]
        pair = [
            pick(found, mode=mode, frames=frames, variant=name)
            for name in ("seqformer", "msts_lean")
        ]
        values = [row[key] for row in pair for key in ("cpu_seconds_median", "peak_rss_gb")]
        values.append(pair[1]["over_first"])
        numbers = [text for cell in cells for text in re.findall(r"\d+\.\d+", cell)]
        for number, value in zip(numbers, values, strict=True):
            assert abs(float(number) - value) <= 0.5001 * 10 ** -len(number.partition(".")[2])


#: Head of a column of docs/studies/mots.md -> number of a row, where they differ.
MOTS_COLUMNS = {
    **{"switches": "IDSw", "J&F": "JF", "boundary IoU": "boundary_iou", "flicker": "stability"},
    **{"J&F, found": "JF_found", "boundary IoU, found": "boundary_iou_found"},
}
#: Part of a title of its rows -> test set; the others are "small".
MOTS_SETS = {"720x1280": "large", "of the training": "seen"}


def test_the_table_of_mots_md() -> None:
    text = (REPO / "docs/studies/mots.md").read_text()
    table = text.split("| clips | masks |")[1].split("\n\n")[0]
    heads = [head.strip() for head in table.splitlines()[0].strip("|").split("|")]
    keys = [MOTS_COLUMNS.get(head, head) for head in heads]
    found, size, compared = result("mots_study")["rows"], "", 0
    for line in table.splitlines()[2:]:
        clips, masks, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if clips:
            size = next((name for part, name in MOTS_SETS.items() if part in clips), "small")
        row = found[f"{masks.strip('`')}, {size}"]
        for cell, key in zip(cells, keys, strict=True):
            assert cell == "-" if key not in row else float(cell) == row[key], (size, masks, key)
            compared += key in row
    assert compared == sum(map(len, found.values()))


def test_the_table_of_propagate_md() -> None:
    text = (REPO / "docs/howto/propagate.md").read_text()
    lines = text.split("| J&F |")[1].split("\n\n")[0].splitlines()[2:]
    found = {(row["start"], row["method"]): row["J&F"] for row in result("propagation")["means"]}
    assert len(lines) * 2 == len(found)
    for line, method in zip(lines, ("flow", "flow_refiner", "ours"), strict=True):
        cells = [cell.strip() for cell in line.strip("|").split("|")][1:]
        assert cells == [f"{found[start, method]:.3f}" for start in ("mask", "polygon")]


def test_the_table_of_export_md() -> None:
    text = (REPO / "docs/howto/export.md").read_text()
    lines = text.split("| exported |")[1].split("\n\n")[0].splitlines()[2:]
    found = {row["network"]: row for row in result("export")["rows"]}
    assert len(lines) == len(found)
    for line in lines:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        row = found[name.strip("`")]
        keys = ("ours_seconds_median", "onnx_seconds_median", "torch_export_seconds_median")
        keys += ("onnx_mb", "torch_export_mb")
        for cell, key in zip(cells, keys, strict=False):
            assert float(cell) == round(row[key], len(cell.partition(".")[2])), (name, key)
        for cell, key in zip(cells[5:], ("onnx", "torch_export"), strict=True):
            assert cell == f"{row[f'{key}_largest_relative']:.0e}", (name, key)


def test_the_table_beside_mask_r_cnn() -> None:
    text = (REPO / "docs/studies/mots.md").read_text()
    lines = text.split("| s of one core per frame |")[1].split("\n\n")[0].splitlines()[2:]
    measured = {row["contender"]: row for row in result("qdtrack")["rows"]}
    assert len(lines) == len(measured)
    for line in lines:
        name, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        row = measured[name.strip("`")]
        for cell, key in zip(
            cells, ("cpu_seconds_per_frame", "peak_rss_gb", "objects_per_frame"), strict=True
        ):
            assert float(cell) == round(row[key], len(cell.partition(".")[2])), (name, key)
