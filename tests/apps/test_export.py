"""``vmt export``: the dense part says what the network says; bad input is one sentence."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.apps.networks import FRAMES, SIZE, network, operators_of, weights_of
from vmt.apps.export import Difference, ExportOptions, compare, export
from vmt.cli.main import main
from vmt.inference.load import load_model
from vmt.modeling.refiners.base import RefinerInput
from vmt.modeling.video_model import VideoModel
from vmt.utils.errors import CheckpointError, ConfigError, VmtError

SHIPPED = "mask_refiner"
FRAME_NETWORKS = (
    "quick/idol_tiny",
    "quick/idol_vmt_tiny",
    "quick/maskdino_tiny",
    "quick/minvis_tiny",
    "quick/refinevis_tiny",
    "quick/refinevis_condinst_tiny",
    "quick/refinevis_mask2former_tiny",
    "quick/refinevis_vmt_tiny",
)


def outputs_of(model: VideoModel, batch: int) -> tuple[tuple[Tensor, ...], dict[str, Tensor]]:
    part = model.dense_part()
    inputs = part.example(batch, FRAMES, SIZE)
    with torch.no_grad():
        outputs = part(*inputs)
    assert len(outputs) == len(part.outputs)
    for port, tensor in zip(part.outputs, outputs, strict=True):
        assert tensor.dim() == len(port.axes), port
        assert len(tensor) == (1 if port.axes[0] == "tracklets" else batch), port
    return inputs, {port.name: x for port, x in zip(part.outputs, outputs, strict=True)}


@pytest.mark.parametrize("config", ["quick/seqformer_tiny", "quick/vmt_tiny_released"])
def test_clips_of_a_batch_are_found_as_one_by_one(config: str) -> None:
    """Of all queries, those that ``segment_clip`` selects are what it gives."""
    model: Any = network(config)
    (frames,), out = outputs_of(model, 2)
    for b in range(2):
        found = model.run_clip(model.normalise(frames[b]))
        chosen = found.selected
        for name, expected in (
            ("class_logits", found.logits[chosen]),
            ("query", found.queries.query),
            ("boxes", found.queries.boxes_cxcywh),
            ("centres", found.queries.centres_px),
            ("box_query", found.queries.box_query),
            ("mask_logits", found.coarse_logits),
        ):
            torch.testing.assert_close(out[name][b, chosen], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", ["quick/vmt_tiny", "quick/vmt_tiny_released"])
def test_refiner_on_the_outputs_gives_the_masks_of_vmt(config: str) -> None:
    """What the description promises: with the outputs alone, the refiner can go on."""
    model: Any = network(config)
    (frames,), outputs = outputs_of(model, 1)
    out = {name: tensor[0] for name, tensor in outputs.items()}
    expected = model.segment_clip(frames[0])

    chosen = expected.query_index
    with torch.inference_mode():
        refined = model.refiner(
            RefinerInput(
                frames=model.normalise(frames[0]),
                stride4=out["stride4"],
                stride2=out.get("stride2"),
                fused=out["fused"],
                coarse_logits=out["mask_logits"][chosen],
                query=out["query"][chosen],
                centres_px=out["centres"][chosen],
                boxes_cxcywh=out["boxes"][chosen],
                frame_size=SIZE,
                box_query=out["box_query"][chosen],
            )
        )

    torch.testing.assert_close(refined.mask_logits, expected.mask_logits, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("config", FRAME_NETWORKS)
def test_frames_of_a_batch_are_seen_as_one_by_one(config: str) -> None:
    model: Any = network(config)
    (frames,), out = outputs_of(model, 2)
    for n in range(2):
        (expected,) = model.segment_frames(frames[n : n + 1])
        maps = expected.maps
        pairs = {
            "class_logits": expected.logits,
            "mask_logits": expected.masks(),
            "embeddings": expected.embeddings,
            "query": expected.query,
            "pixel": expected.pixel,
            "boxes": expected.boxes_cxcywh,
            "centres": expected.refs,
            "fused": None if maps is None else maps.fused,
            "stride4": None if maps is None else maps.stride4,
            "stride2": None if maps is None else maps.stride2,
        }
        assert {name for name, x in pairs.items() if x is not None} == set(out)
        for name, tensor in out.items():
            torch.testing.assert_close(tensor[n], pairs[name], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("config", [SHIPPED, "refine/mask_refiner_frames"])
def test_a_cut_out_is_encoded_as_the_refiner_reads_it(config: str) -> None:
    model: Any = network(config, ["MODEL.BACKBONE.PRETRAINED", "False"])
    frames = 255 * torch.rand(FRAMES, 3, 96, 128)
    coarse = torch.zeros(FRAMES, 96, 128, dtype=torch.bool)
    coarse[:, 30:60, 40:90] = True
    crop = model.cut_out(coarse)
    inputs = [crop.cut(frames, model.pixel_mean), crop.cut(coarse[:, None])]
    votes = None
    if model.votes_reach:
        votes = torch.randint(256, (FRAMES, 2, 96, 128), dtype=torch.uint8)
        inputs.append(crop.cut(votes) / 255)
    part = model.dense_part()
    assert len(part.inputs) == len(inputs)
    with torch.no_grad():
        expected, coarseness = model.refiner_input(frames, coarse, crop, votes=votes)
        outputs = part(*inputs)
    names = [port.name for port in part.outputs]
    out = dict(zip(names, outputs, strict=True))
    for name in ("stride4", "stride2", "fused", "query"):
        torch.testing.assert_close(out[name], getattr(expected, name))
    assert ("coarseness" in out) == (coarseness is not None) == (config == SHIPPED)
    if coarseness is not None:
        torch.testing.assert_close(out["coarseness"][0], coarseness)
    read = out["read"] if votes is not None else model.normalise(inputs[0])
    torch.testing.assert_close(read, expected.frames)


@pytest.mark.parametrize(
    ("largest", "scale", "is_rounding"),
    [
        (0.9e-4, 0.1, True),
        (1.1e-4, 1.0, False),
        (0.9e-3, 10.0, True),
        (1.1e-3, 10.0, False),
        (float("nan"), 1.0, False),
    ],
)
def test_rounding_is_a_share_of_the_largest_number(
    largest: float, scale: float, is_rounding: bool
) -> None:
    assert Difference("x", 1, largest, scale).is_rounding == is_rounding


def test_the_order_of_queries_is_no_difference() -> None:
    part = network("quick/maskdino_tiny").dense_part().eval()
    inputs = part.example(2, FRAMES, SIZE)
    by_query = [port.axes[1:2] == ("queries",) for port in part.outputs]
    assert any(by_query)
    assert not all(by_query)

    def swapped(inputs: Sequence[Tensor], to: float | None = None) -> list[Tensor]:
        outputs = [output.clone() for output in part(*inputs)]
        for output, is_query in zip(outputs, by_query, strict=True):
            if is_query:
                output[1, [2, 5]] = output[1, [5, 2]]
        if to is not None:
            outputs[by_query.index(True)][1, 5] = to
        return outputs

    assert all(d.largest == 0 for d in compare(part, swapped, inputs))
    for wrong in (9.0, float("nan")):
        found = compare(part, lambda x, to=wrong: swapped(x, to), inputs)
        assert [d.is_rounding for d in found].count(False) == 1


def test_a_graph_that_says_something_else_is_noticed() -> None:
    part = network(SHIPPED).dense_part()
    inputs = part.example(2, FRAMES, (32, 32))
    found = compare(part, lambda tensors: [x + 0.01 for x in part(*tensors)], inputs)
    names = ["stride4", "stride2", "fused", "query", "read", "coarseness"]
    assert [d.output for d in found] == names
    assert all(d.batch == 2 and 0.009 < d.largest < 0.011 for d in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"opset": 11}, r"--opset 11: choose from 18 to 20"),
        ({"opset": 21}, r"--opset 21: choose from 18 to 20"),
        ({"format": "tflite"}, r"--format 'tflite': choose from onnx, torch_export"),
        ({"output": Path("m.pt2")}, r"--output m.pt2: .* ends in .onnx"),
        ({"frames": 0}, r"--frames 0: a clip has 1 frame"),
        ({"size": (16, 640)}, r"--size 16x640: both sides need 32"),
    ],
)
def test_a_wrong_option_is_one_sentence(changes: dict[str, Any], message: str) -> None:
    right = {"config_file": "quick/seqformer_tiny", "output": Path("m.onnx")}
    with pytest.raises(ConfigError, match=message):
        ExportOptions(**{**right, **changes})


@pytest.mark.parametrize(
    ("config", "weights", "kind", "message"),
    [
        ("quick/seqformer_tiny", None, CheckpointError, "names no weights"),
        ("quick/seqformer_tiny", "absent.pth", CheckpointError, "absent.pth"),
        ("quick/absent.yaml", None, ConfigError, "quick/absent"),
        ("quick/qdtrack_tiny", "MADE", ConfigError, "cannot be exported: .* suppression"),
    ],
)
def test_what_is_missing_is_one_sentence(
    config: str,
    weights: str | None,
    kind: type[VmtError],
    message: str,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    if weights == "MADE":
        weights = str(weights_of(config, tmp_path_factory.mktemp("made")))
    options = ExportOptions(config, tmp_path / "m.pt2", weights, "torch_export")
    with pytest.raises(kind, match=message):
        export(options)
    assert not list(tmp_path.iterdir())


def test_an_unknown_network_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["export", "--config-file", "quick/seqformer_tiny", "--weights", "any.pth"]
    arguments += ["--format", "torch_export", "--output", str(tmp_path / "m.pt2")]
    assert main([*arguments, "MODEL.META_ARCHITECTURE", "YOLACT"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "YOLACT" in line


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("quick/qdtrack_tiny", "QDTrack cannot be exported: .* suppression"),
        ("quick/msts_tiny", "SeqFormer cannot be exported: MS-STS's attention"),
        ("quick/msts_vmt_tiny", "VideoMaskTransfiner cannot be exported: MS-STS's attention"),
    ],
)
def test_a_network_that_cannot_be_exported_says_why(config: str, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        network(config).dense_part()


def test_queries_for_given_masks_are_not_exported() -> None:
    overrides = ["MODEL.META_ARCHITECTURE", "QueryMaskRefiner", "MODEL.DEVICE", "cpu"]
    with pytest.raises(ConfigError, match="export the VideoMaskTransfiner of the same weights"):
        load_model("quick/vmt_tiny", overrides=overrides).dense_part()


def test_cut_outs_have_sides_that_the_refiner_takes() -> None:
    part = network(SHIPPED).dense_part()
    with pytest.raises(ConfigError, match="--size 64x90: the sides of cut-outs are multiples of"):
        part.example(1, 1, (64, 90))


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(
    package: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("onnx", "onnxscript", "onnxruntime"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    options = ExportOptions(SHIPPED, tmp_path / "m.onnx", check=True)
    with pytest.raises(ConfigError, match=rf"{package} is missing .* install 'vmt-vis\[export\]'"):
        export(options)


@pytest.mark.slow
def test_the_command_writes_a_program_and_what_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The refiner of the package, by its name; weights come with it."""
    output = tmp_path / "made/m.pt2"
    arguments = ["export", "--config-file", SHIPPED, "--format", "torch_export", "--check"]
    assert main([*arguments, "--size", "32x64", "--output", str(output)]) == 0

    printed = capsys.readouterr().out
    about = json.loads(output.with_suffix(".json").read_text())
    assert sorted(path.name for path in output.parent.iterdir()) == ["m.json", "m.pt2"]
    assert about["files"] == ["m.pt2"]
    assert about["network"] == "PooledMaskRefiner"
    assert len(about["weights_sha256"]) == 64
    assert [port["name"] for port in about["inputs"]] == ["frames", "share", "votes"]
    assert about["inputs"][0]["shape"] == ["frames", 3, 32, 64]
    assert about["inputs"][0]["type"] == "float32"
    assert about["outputs"][0]["shape"][2:] == [8, 16]
    assert about["outputs"][3]["shape"][0] == 1, "one tracklet, however many frames"
    for port in about["outputs"]:
        for batch in (1, 3):
            assert f"batch {batch}  {port['name']}" in printed

    used = operators_of(torch.export.load(output))
    assert not [name for name in used if "vmt" in name], "it would need VMT to run"


def test_nothing_is_left_of_a_program_that_cannot_be_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    arguments = ["export", "--config-file", SHIPPED, "--format", "torch_export"]
    output = str(tmp_path / "file/m.pt2")
    assert main([*arguments, "--size", "32x32", "--output", output]) == 2
    assert "cannot be written" in capsys.readouterr().err
