#!/usr/bin/env python3
r"""Hold a network against reference outputs of the published code.

With --golden: prints, per array, the largest |ours - golden| / (1 + |golden|); exits with 1 when
one is above the tolerance or when other queries are selected. Masks are compared by query index.

With --inputs and --output: writes what the network makes of the inputs, under the names of the
reference files; of a training step also losses and gradient norms, as JSON beside the arrays. With
--fixture in place of a network: an association or a matcher alone.

Examples:
  python tools/check_parity.py --config configs/hq_ytvis/vmt_R50_released.yaml \
      --weights weights/checkpoint_r50_final.pth --golden golden_vmt_r50.npz
  python tools/check_parity.py --config configs/ytvis_2019/idol_R50.yaml \
      --weights idol_r50.pth --inputs inputs.npz --output produced.npz
  python tools/check_parity.py --fixture idol_tracker --inputs inputs.npz --output produced.npz
"""

import argparse
from collections.abc import Sequence

from vmt.utils.console import exit_with, one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print a table, or write outputs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", "--config-file", metavar="YAML")
    parser.add_argument("--weights", metavar="FILE")
    parser.add_argument("--golden", metavar="NPZ", help="reference outputs to compare with")
    parser.add_argument("--inputs", metavar="NPZ", help="what goes in")
    parser.add_argument("--output", metavar="NPZ", help="for what comes out")
    parser.add_argument("--fixture", metavar="NAME", help="what runs without a network")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    if not args.golden and not (args.inputs and args.output):
        parser.error("give --golden, or --inputs and --output")
    if not args.fixture and not (args.config and args.weights):
        parser.error("give --config and --weights, or --fixture")
    return compare_with_golden(args) if args.golden else produce(args)


def compare_with_golden(args: argparse.Namespace) -> int:
    """Print a table; 1 when the network differs."""
    from vmt.engine.parity import compare, read_reference
    from vmt.inference.load import load_model
    from vmt.modeling.video_model import ClipModel
    from vmt.utils.errors import ConfigError

    reference = read_reference(args.golden)
    model = load_model(args.config, args.weights, args.opts, args.device)
    if not isinstance(model, ClipModel):
        raise ConfigError(f"{args.config}: --golden is for clips; use --inputs and --output.")
    report = compare(model, reference)
    for name, error in report.errors.items():
        print(f"{name:14s} {error:.3e}  {'ok' if error <= args.tolerance else 'ABOVE TOLERANCE'}")
    same = report.selected_ours == report.selected_golden
    print(f"selected       {'same queries' if same else 'OTHER QUERIES'}: {report.selected_ours}")
    return 0 if report.holds(args.tolerance) else 1


def produce(args: argparse.Namespace) -> int:
    """Write arrays, and numbers of a training step."""
    from vmt.checkpoint.files import read_weights
    from vmt.engine.parity import read_arrays
    from vmt.engine.reference import run_fixture, run_network, write_outputs
    from vmt.inference.load import load_model
    from vmt.modeling.video_model import FrameModel
    from vmt.utils.errors import ConfigError

    inputs = read_arrays(args.inputs)
    if args.fixture:
        write_outputs(args.output, run_fixture(args.fixture, inputs))
        return 0
    model = load_model(args.config, args.weights, args.opts, args.device)
    if not isinstance(model, FrameModel):
        raise ConfigError(f"{args.config}: --inputs is for frame models; use --golden.")
    write_outputs(args.output, *run_network(model, inputs, read_weights(args.weights).key_map))
    return 0


if __name__ == "__main__":
    exit_with(main)
