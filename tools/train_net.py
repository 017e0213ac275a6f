#!/usr/bin/env python3
"""Train the network of a config, or evaluate it with --eval-only: ``vmt train`` as a script.

Example:
  tools/train_net.py --config-file configs/hq_ytvis/vmt_R50_released.yaml --num-gpus 8 \
      --weights weights/seqformer_coco_r50.pth --output output/vmt_r50
"""

import sys

from vmt.cli.main import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
