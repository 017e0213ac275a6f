#!/usr/bin/env python3
r"""Correct a coarse annotation set by iterative training (Video Mask Transfiner, section 3.2).

Iteration 1 trains a mask refiner on degraded masks of a clean set (DATASETS.TRAIN) and corrects
--coarse with it. Iteration k trains on degraded masks of the set corrected by iteration k - 1, from
its weights, and corrects that set again (or the coarse one anew: --input original). Before the
first, and after each, masks of --val-coarse are refined too and scored against --val: tube boundary
AP with true classes and identities. When it gains less than --min-gain points, the loop ends.

OUTPUT/iteration_<k>/ keeps train/ (weights, log), annotations.json (corrected), val.json,
report.html (the most changed frames) and scores.json. OUTPUT/refined.json is the original file
with the best iteration's masks as `segmentations_refined`; OUTPUT/scores.json has all scores.
Called again with the same arguments it goes on where it stopped; a folder of other settings or
annotations is refused. docs/howto/refine.md has a small loop with the commands that make its data.

Example:
  python tools/self_correct.py --config-file configs/refine/ovis_to_ytvis.yaml \
      --coarse hq_ytvis_train_coarse --val hq_ytvis_val --val-coarse hq_ytvis_val_coarse \
      --output output/ytvis_corrected --num-gpus 8 MODEL.WEIGHTS weights/seqformer_r50.pth
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from vmt.utils.console import exit_with, one_line_errors


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,  # vmt/apps/self_correct.py has them
    )
    add = parser.add_argument
    add("--config-file", required=True, help="YAML of network and training")
    add("--output", type=Path, required=True, help="folder")
    add("--coarse", required=True, metavar="SET", help="masks to correct: a name or JSON@IMAGES")
    add("--val", metavar="SET", help="true masks, for scores and the stop rule")
    add("--val-coarse", metavar="SET", help="coarse masks of the same videos; a JSON will do")
    add("--truth", metavar="SET", help="true masks of --coarse, if known: scored only")
    add("--input", choices=("previous", "original"), help="what is corrected (default previous)")
    add("--iterations", type=int, help="at most (default 4)")
    add("--min-gain", type=float, help="points of boundary AP (default 0.2)")
    add("--next-steps", type=int, help="steps of later iterations (default: SOLVER.MAX_STEPS)")
    add("--accept", type=float, help="see vmt refine (default 0.65)")
    add("--window", type=int, help="frames refined together (default 8)")
    add("--num-gpus", type=int, help="of the trainings (default 0: the CPU)")
    add("--device", help="of the corrections (default auto)")
    add("overrides", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    from vmt.apps.self_correct import Correction, self_correct

    self_correct(Correction(**vars(args)))
    return 0


if __name__ == "__main__":
    exit_with(main)
