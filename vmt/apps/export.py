"""What ``vmt export`` does: a network as a graph that runs without VMT."""

from __future__ import annotations

import importlib
import json
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from vmt.checkpoint.download import sha256_of
from vmt.config.node import load_config
from vmt.inference.load import load_model
from vmt.inference.pretrained import find_pretrained
from vmt.modeling.dense_part import DensePart, Port
from vmt.modeling.video_model import VideoModel
from vmt.utils.atomic import make_folder, output_error, write_text
from vmt.utils.errors import CheckpointError, ConfigError
from vmt.version import __version__

#: Format -> ending of its files.
FORMATS = {"onnx": ".onnx", "torch_export": ".pt2"}
#: Versions of ONNX's operators that the exporter writes and the test runs.
OPSETS = range(18, 21)
#: Shortest side of frames, in pixels: one cell of the coarsest map.
MIN_SIDE = 32
#: Largest difference that is put down to rounding, as a share of the largest number, at least 1.
TOLERANCE = 1e-4
#: Length of the open axis in tracing, and those that a check tries.
TRACED, CHECKED = 2, (1, 3)


@dataclass(frozen=True)
class ExportOptions:
    """What to export, and how.

    Args:
        config_file: YAML of the network, or the name of a recipe.
        output: the file to write; its description in JSON has the same name.
        weights: a weight file; None for what the config names.
        format: of ``FORMATS``.
        frames: T of a clip, for networks of clips.
        size: (H, W) of the frames, in pixels.
        opset: of ONNX.
        check: run both and compare.
        overrides: alternating ``KEY VALUE``.
    """

    config_file: str
    output: Path
    weights: str | None = None
    format: str = "onnx"
    frames: int = 5
    size: tuple[int, int] = (360, 640)
    opset: int = 20
    check: bool = False
    overrides: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ConfigError(f"--format {self.format!r}: choose from {', '.join(FORMATS)}.")
        if self.output.suffix != FORMATS[self.format]:
            raise ConfigError(
                f"--output {self.output}: a file of the format {self.format} ends in "
                f"{FORMATS[self.format]}."
            )
        if self.format == "onnx" and self.opset not in OPSETS:
            raise ConfigError(
                f"--opset {self.opset}: choose from {OPSETS[0]} to {OPSETS[-1]}; older ones lack "
                "operators that the networks need."
            )
        if self.frames < 1:
            raise ConfigError(f"--frames {self.frames}: a clip has 1 frame at least.")
        if min(self.size) < MIN_SIDE:
            height, width = self.size
            raise ConfigError(f"--size {height}x{width}: both sides need {MIN_SIDE} pixels.")


@dataclass(frozen=True)
class Difference:
    """How far two runs of a network are apart.

    Args:
        output: its name.
        batch: length of the open axis.
        largest: of the absolute differences.
        scale: largest absolute number of our run.
    """

    output: str
    batch: int
    largest: float
    scale: float

    @property
    def is_rounding(self) -> bool:
        """Whether it is within ``TOLERANCE``; not for NaN."""
        return self.largest <= TOLERANCE * max(self.scale, 1.0)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        files: the graph, and with it what holds its weights where they are too large for one file.
        description: beside them.
        differences: of the check, by batch and output; none without one.
    """

    files: tuple[Path, ...]
    description: Path
    differences: tuple[Difference, ...]

    @property
    def agrees(self) -> bool:
        """Whether the check, if there was one, found rounding alone."""
        return all(difference.is_rounding for difference in self.differences)

    def text(self) -> str:
        """In lines."""
        lines = [f"{file}: {file.stat().st_size / 1e6:.1f} MB" for file in self.files]
        lines.append(f"{self.description}: what goes in, what comes out, what is left to do")
        lines += [
            f"  batch {d.batch}  {d.output:<12}  largest difference {d.largest:.1e} "
            f"(numbers up to {d.scale:.3g})" + ("" if d.is_rounding else "  TOO LARGE")
            for d in self.differences
        ]
        return "\n".join(lines)


def export(options: ExportOptions) -> Exported:
    """Write a network's dense part as a graph, and a description beside it.

    Raises:
        VmtError: the network or its weights cannot be exported, or a package is missing.
    """
    packages = ("onnx", "onnxscript") if options.format == "onnx" else ()
    runtime = ("onnxruntime",) if packages and options.check else ()
    for package in (*packages, *runtime):
        required(package)
    weights = _weights(options)
    # Frames in one pass: chunks would be unrolled into the graph.
    overrides = (*options.overrides, "TEST.FRAME_CHUNK", "0")
    model = load_model(options.config_file, weights, overrides, "cpu")
    part = model.dense_part().eval()
    make_folder(options.output.parent)
    program = trace(part, options.frames, options.size)
    files = write(program, part, options)
    about = _description(model, part, program, options)
    about |= {"weights": weights, "files": [file.name for file in files]}
    about["weights_sha256"] = sha256_of(Path(weights)) if Path(weights).is_file() else None
    description = options.output.with_suffix(".json")
    write_text(description, json.dumps(about, indent=1))
    differences: tuple[Difference, ...] = ()
    if options.check:
        run = runner(options.output)
        differences = tuple(
            difference
            for batch in CHECKED
            for difference in compare(part, run, part.example(batch, options.frames, options.size))
        )
    return Exported(files, description, differences)


def required(package: str) -> Any:
    """A package of the extra ``export``.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f"the Python package {package} is missing ({error}): pip install 'vmt-vis[export]'."
        ) from None


def _weights(options: ExportOptions) -> str:
    """Those of the command, those that come with the network's name, or those of its config."""
    where = find_pretrained(options.config_file, fetch_weights=options.weights is None)
    named = options.weights or where.weights
    if not (named := named or load_config(where.config, options.overrides).MODEL.WEIGHTS):
        raise CheckpointError(
            f"{options.config_file} names no weights, and a network of random numbers is of no "
            "use: give --weights FILE."
        )
    return str(named)


def trace(part: DensePart, num_frames: int, size: tuple[int, int]) -> torch.export.ExportedProgram:
    """The graph of a network, with an open first axis.

    Args:
        part: in evaluation mode.
        num_frames: see ``DensePart.example``.
        size: see ``DensePart.example``.
    """
    batch = torch.export.Dim(part.inputs[0].axes[0])
    with torch.no_grad():
        return torch.export.export(
            part,
            part.example(TRACED, num_frames, size),
            dynamic_shapes=tuple({0: batch} for _ in part.inputs),
            strict=False,
        )


def write(
    program: torch.export.ExportedProgram, part: DensePart, options: ExportOptions
) -> tuple[Path, ...]:
    """Write a program in the format of ``options``, whole or not at all.

    Returns:
        ``options.output``, and a second file with the weights where ONNX cannot hold them in one
        (2 GB; the exporter parts them from 1.5 GB on).

    Raises:
        OutputError: a file cannot be written.
    """
    folder = options.output.parent
    try:
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as temporary:
            path = Path(temporary) / options.output.name
            if options.format == "onnx":
                _write_onnx(program, part, options.opset, path)
            else:
                torch.export.save(program, path)
            files = sorted(path.parent.iterdir())
            for file in reversed(files):  # the graph comes last: its weights are there
                file.replace(folder / file.name)
    except OSError as error:
        raise output_error(options.output, error) from None
    return tuple(folder / file.name for file in files)


def _write_onnx(
    program: torch.export.ExportedProgram, part: DensePart, opset: int, path: Path
) -> None:
    for chatty in ("onnx_ir", "onnxscript"):  # a line per constant
        logging.getLogger(chatty).setLevel(logging.WARNING)
    graph = torch.onnx.export(
        program,
        dynamo=True,
        opset_version=opset,
        input_names=[port.name for port in part.inputs],
        output_names=[port.name for port in part.outputs],
        verbose=False,
    )
    assert graph is not None, "the exporter that takes programs gives one back"
    graph.save(path)


def _description(
    model: VideoModel,
    part: DensePart,
    program: torch.export.ExportedProgram,
    options: ExportOptions,
) -> dict[str, Any]:
    """What whoever runs the graph needs to know."""
    signature = program.graph_signature
    tensors = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}

    def ports(of: Sequence[Port], names: Sequence[str]) -> list[dict[str, Any]]:
        described = []
        for port, name in zip(of, names, strict=True):
            first, *sides = tensors[name].shape
            shape = [first if isinstance(first, int) else port.axes[0], *map(int, sides)]
            kind = str(tensors[name].dtype).removeprefix("torch.")
            described.append({**asdict(port), "shape": shape, "type": kind})
        return described

    return {
        "network": type(model).__name__,
        "config": options.config_file,
        "format": options.format,
        "opset": options.opset if options.format == "onnx" else None,
        "vmt": __version__,
        "torch": torch.__version__,
        "frame_size": list(options.size),
        "labels": list(model.label_space.names) if model.knows_classes else [],
        "inputs": ports(part.inputs, [str(name) for name in signature.user_inputs]),
        "outputs": ports(part.outputs, [str(name) for name in signature.user_outputs]),
        "left_out": list(part.left_out),
    }


#: Inputs -> outputs, in the order of the ports.
Run = Callable[[Sequence[Tensor]], Sequence[Tensor]]


def runner(path: Path) -> Run:
    """What runs a graph on the CPU: ONNX Runtime, or torch for a program of its own."""
    if path.suffix == FORMATS["torch_export"]:
        program = torch.export.load(path).module()
        return lambda inputs: program(*inputs)
    options = required("onnxruntime").SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = required("onnxruntime").InferenceSession(
        str(path), options, providers=["CPUExecutionProvider"]
    )
    names = [node.name for node in session.get_inputs()]

    def run_session(inputs: Sequence[Tensor]) -> Sequence[Tensor]:
        feed = {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feed)]

    return run_session


@torch.no_grad()
def compare(part: DensePart, run: Run, inputs: Sequence[Tensor]) -> list[Difference]:
    """How far a graph's outputs are from ours, wherever in the set of queries they are."""
    ours = part(*inputs)
    theirs = _in_our_order(part.outputs, ours, run(inputs))
    return [
        Difference(
            port.name,
            len(inputs[0]),
            float((mine - other).abs().max()),
            float(mine.abs().max()),
        )
        for port, mine, other in zip(part.outputs, ours, theirs, strict=True)
    ]


def _in_our_order(
    ports: Sequence[Port], ours: Sequence[Tensor], theirs: Sequence[Tensor]
) -> list[Tensor]:
    """A graph's outputs with its queries in the places of those of ours that they resemble most.

    Where tokens become queries by their scores, rounding decides which of two near equals is first.
    """
    by_query = [k for k, port in enumerate(ports) if port.axes[1:2] == ("queries",)]
    aligned = list(theirs)
    if all(torch.allclose(ours[k], theirs[k], TOLERANCE, TOLERANCE) for k in by_query):
        return aligned
    for b in range(len(ours[by_query[0]])):
        mine, other = (
            torch.cat([tensors[k][b].flatten(1) for k in by_query], dim=1)
            for tensors in (ours, theirs)
        )
        _, places = linear_sum_assignment(torch.cdist(mine, other).nan_to_num().numpy())
        for k in by_query:
            if aligned[k] is theirs[k]:
                aligned[k] = theirs[k].clone()
            aligned[k][b] = theirs[k][b][torch.from_numpy(places)]
    return aligned
