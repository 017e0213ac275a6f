#!/usr/bin/env python3
"""Train or evaluate networks of VMT with detectron2's engine: a script as its ``train_net.py``.

Needs detectron2, see docs/howto/detectron2.md. --config-file is a config of detectron2's with our
keys below VMT; --recipe, one of configs/, is read before it. Options are detectron2's.

Example:
  python tools/train_net_detectron2.py --recipe configs/quick/seqformer_tiny.yaml --num-gpus 0 \
      OUTPUT_DIR output/detectron2 SOLVER.MAX_ITER 10
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence
from typing import Any

from vmt.utils.console import exit_with, one_line_errors


def setup(args: argparse.Namespace) -> Any:
    """The config, frozen; detectron2's log and seeds."""
    from detectron2.config import get_cfg
    from detectron2.engine import default_setup
    from detectron2.utils import comm
    from detectron2.utils.logger import setup_logger

    from vmt.plugins.detectron2 import merge_recipe

    cfg = get_cfg()
    if args.recipe:
        merge_recipe(cfg, args.recipe)
    if args.config_file:
        cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    if args.num_gpus == 0:
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="vmt")
    return cfg


def work(args: argparse.Namespace) -> Any:
    """What one process does; gives the results of an evaluation."""
    from detectron2.evaluation import verify_results
    from detectron2.utils import comm

    from vmt.plugins.detectron2 import Trainer, VideoCheckpointer

    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = VideoCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


@one_line_errors
def main(argv: Sequence[str] | None = None) -> int:
    """Run it; returns the exit status."""
    importlib.import_module("vmt.plugins.detectron2")  # says in one line what is missing
    from detectron2.engine import default_argument_parser, launch

    parser = default_argument_parser(epilog=__doc__)
    parser.add_argument("--recipe", metavar="FILE", help="a YAML of configs/, read first")
    args = parser.parse_args(argv)
    launch(
        work,
        max(args.num_gpus, 1),
        num_machines=args.num_machines,
        machine_rank=args.machine_rank,
        dist_url=args.dist_url,
        args=(args,),
    )
    return 0


if __name__ == "__main__":
    exit_with(main)
