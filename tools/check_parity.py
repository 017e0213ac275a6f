#!/usr/bin/env python3
r"""Hold a network against reference outputs of the published code.

Prints, per array, the largest |ours - golden| / (1 + |golden|); exits with 1 when one is above the
tolerance or when other queries are selected. Masks are compared by query index.

Example:
  python tools/check_parity.py --config configs/hq_ytvis/vmt_R50_released.yaml \
      --weights weights/checkpoint_r50_final.pth --golden golden_vmt_r50.npz
"""

import argparse
from collections.abc import Sequence

from vmt.utils.console import exit_with, one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Compare and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", "--config-file", required=True, metavar="YAML")
    parser.add_argument("--weights", required=True, metavar="FILE")
    parser.add_argument("--golden", required=True, metavar="NPZ", help="reference outputs")
    parser.add_argument("--tolerance", type=float, default=1e-3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config overrides")
    args = parser.parse_args(argv)
    from vmt.engine.parity import compare, read_reference
    from vmt.inference.load import load_model

    reference = read_reference(args.golden)
    model = load_model(args.config, args.weights, args.opts, args.device)
    report = compare(model, reference)
    for name, error in report.errors.items():
        print(f"{name:14s} {error:.3e}  {'ok' if error <= args.tolerance else 'ABOVE TOLERANCE'}")
    same = report.selected_ours == report.selected_golden
    print(f"selected       {'same queries' if same else 'OTHER QUERIES'}: {report.selected_ours}")
    return 0 if report.holds(args.tolerance) else 1


if __name__ == "__main__":
    exit_with(main)
