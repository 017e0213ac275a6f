"""Graphs of ``vmt export`` give our numbers: in torch without VMT, and in ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cocoapi_hq.io import rle
from tests.apps.networks import CROP, FRAMES, SHALLOW, SIZE, network, operators_of, weights_of
from tests.docs.blocks import blocks_of
from tests.synthetic import moving_shapes
from vmt.apps.export import ExportOptions, Run, compare, export, runner, trace, write
from vmt.inference.load import load_model
from vmt.inference.postprocess import masks_at_video_size
from vmt.inference.video_writer import VideoWriter
from vmt.modeling.dense_part import DensePart
from vmt.structures.masks import encode_crop


@pytest.fixture(autouse=True, scope="module")
def packages() -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package, reason="pip install 'vmt-vis[export]'")


def assert_ours(part: DensePart, run: Run, size: tuple[int, int]) -> None:
    """At another batch than the one that was traced, too."""
    for batch in (1, 2, 3):
        for difference in compare(part, run, part.example(batch, FRAMES, size)):
            assert difference.is_rounding, difference
            assert difference.scale > 0, difference


@pytest.mark.parametrize(
    ("config", "opset"),
    [
        ("quick/seqformer_tiny", 20),
        ("quick/vmt_tiny", 18),
        ("quick/vmt_tiny_released", 20),
        ("quick/refinevis_tiny", 18),
        ("quick/refinevis_condinst_tiny", 20),
        ("quick/refinevis_mask2former_tiny", 20),
        ("mask_refiner", 18),
    ],
)
def test_graphs_give_our_numbers_at_any_batch(config: str, opset: int, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    part = network(config, SHALLOW).dense_part().eval()
    size = CROP if config == "mask_refiner" else SIZE
    program = trace(part, FRAMES, size)
    assert not [name for name in operators_of(program) if "vmt" in name]
    module = program.module()
    assert_ours(part, lambda inputs: module(*inputs), size)

    options = ExportOptions(config, tmp_path / "m.onnx", frames=FRAMES, size=size, opset=opset)
    (path,) = write(program, part, options)
    assert_ours(part, runner(path), size)
    graph = onnx.load(path)
    assert {o.domain: o.version for o in graph.opset_import}[""] == opset
    assert {node.domain for node in graph.graph.node} == {""}, "operators of ONNX alone"
    assert [node.name for node in graph.graph.output] == [port.name for port in part.outputs]


def test_weights_too_large_for_a_file_lie_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than 1.5 GB; here of more than 1 MB."""
    exporter = pytest.importorskip("torch.onnx._internal.exporter._onnx_program")
    monkeypatch.setattr(exporter, "_LARGE_MODEL_THRESHOLD", 1 << 20)
    part = network("mask_refiner").dense_part().eval()
    program = trace(part, FRAMES, (32, 32))
    options = ExportOptions("mask_refiner", tmp_path / "m.onnx", size=(32, 32))
    files = write(program, part, options)
    assert [file.name for file in files] == ["m.onnx", "m.onnx.data"]
    assert sorted(tmp_path.iterdir()) == list(files)
    assert files[0].stat().st_size < files[1].stat().st_size

    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for file in files:
        file.rename(moved / file.name)
    inputs = part.example(2, FRAMES, (32, 32))
    assert all(d.is_rounding for d in compare(part, runner(moved / "m.onnx"), inputs))
    (moved / "m.onnx.data").unlink()
    with pytest.raises(Exception, match=r"m\.onnx\.data"):
        runner(moved / "m.onnx")


def test_torch_runs_a_program_that_was_saved(tmp_path: Path) -> None:
    part = network("mask_refiner").dense_part().eval()
    options = ExportOptions("mask_refiner", tmp_path / "m.pt2", format="torch_export")
    (path,) = write(trace(part, FRAMES, CROP), part, options)
    assert_ours(part, runner(path), CROP)
    assert isinstance(torch.export.load(path), torch.export.ExportedProgram)


def test_the_page_turns_outputs_into_the_masks_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    video_size = (96, 120)
    with VideoWriter(Path("my.mp4"), 12.0, video_size) as writer:
        for frame in moving_shapes(FRAMES, video_size, seed=3).frames:
            writer.write(frame)
    config, overrides = "quick/seqformer_tiny", [*SHALLOW, "MODEL.DEVICE", "cpu"]
    weights = str(weights_of(config, tmp_path, SHALLOW))
    output = Path("seqformer.onnx")
    export(ExportOptions(config, output, weights, "onnx", FRAMES, SIZE, overrides=SHALLOW))
    (code,) = (block.text for block in blocks_of("docs/howto/export.md") if block.kind == "python")
    page: dict[str, Any] = {}
    exec(compile(code, "docs/howto/export.md", "exec"), page)

    model: Any = load_model(config, weights, [*overrides, "TEST.TOP_K", "100000"])
    clip = torch.from_numpy(page["clip"][0])
    found = model.segment_clip(clip)
    order = found.query_index.tolist()
    for query, tube in zip(page["best"], page["masks"], strict=True):
        row = order.index(query)
        torch.testing.assert_close(
            torch.from_numpy(page["scores"][query]), found.class_probs[row], atol=1e-4, rtol=0
        )
        for t, mask in enumerate(tube):
            logits = found.mask_logits[row : row + 1, t]
            (expected,) = masks_at_video_size(logits, found.mask_stride, SIZE, video_size)
            ours = rle.decode(encode_crop(expected, video_size)).astype(bool)
            assert (mask != ours).mean() < 1e-3
    assert len(capsys.readouterr().out.splitlines()) == 10
