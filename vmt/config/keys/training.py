"""Schedule, optimiser and the processes that train."""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node

from vmt.config.keys import sections


def add_keys(cfg: Node) -> None:
    """Add them."""
    sections(cfg, "SOLVER", "ENGINE")
    # Clips of one step, over all processes [S].
    cfg.SOLVER.CLIPS_PER_BATCH = 16
    # "adamw" [S], or "sgd" with a momentum of 0.9.
    cfg.SOLVER.OPTIMIZER = "adamw"
    # Learning rates [S]; those of the backbone, and of reference points and sampling offsets, are
    # this times their factor.
    cfg.SOLVER.BASE_LR = 2e-4
    cfg.SOLVER.BACKBONE_FACTOR = 0.1
    cfg.SOLVER.SAMPLING_FACTOR = 0.1
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    # Length in epochs and, in epochs counted from 0, when learning rates are multiplied by 0.1
    # [S][P]. An epoch: every frame of every video once as key frame, every image once.
    cfg.SOLVER.EPOCHS = 12
    cfg.SOLVER.MILESTONES = [4, 10]
    # Above 0: length in steps, and MILESTONE_STEPS count in place of both keys above [V].
    cfg.SOLVER.MAX_STEPS = 0
    cfg.SOLVER.MILESTONE_STEPS = []
    # Steps of a linear warm-up from a thousandth [D: none, as S].
    cfg.SOLVER.WARMUP_STEPS = 0
    # Largest L2 norm of all gradients together; 0: no limit [S; V: 0.01].
    cfg.SOLVER.CLIP_GRADIENTS = 0.1
    # Prefixes of our parameter names that stay as they are, for instance "coarse." and "refiner.",
    # the mask head of VMT [P, Table 4].
    cfg.SOLVER.FREEZE = []
    # Parts in which a process takes its share of a step; bounds memory, changes no gradient.
    cfg.SOLVER.ACCUMULATE = 1
    # Random numbers of process r start from SEED + r; order, frames and augmentation of the data
    # from SEED, whatever the number of processes and workers [S].
    cfg.ENGINE.SEED = 42
    # As TEST.PRECISION [S: fp32]; "fp16" scales the loss. Losses and places are fp32 always.
    cfg.ENGINE.PRECISION = "fp32"
    # Several processes: "ddp" (each holds the whole network) or "fsdp" (each holds a share).
    cfg.ENGINE.PARALLEL = "ddp"
    # Recompute layers of backbone, encoder and decoder in the backward pass: less memory.
    cfg.ENGINE.ACTIVATION_CHECKPOINTING = False
    # torch.compile for the layers of encoder and decoder.
    cfg.ENGINE.COMPILE = False
    # Decay per step of the moving average of the weights, for instance 0.9998; 0: none [S].
    cfg.ENGINE.EMA_DECAY = 0.0
    # Steps between lines in the log, checkpoints, and overlays of a training clip (0: none).
    cfg.ENGINE.LOG_PERIOD = 20
    cfg.ENGINE.CHECKPOINT_PERIOD = 1000
    cfg.ENGINE.OVERLAY_PERIOD = 0
    # Newest checkpoints that stay on disk; model_best is kept apart.
    cfg.ENGINE.KEEP_CHECKPOINTS = 2
    # Curves beside metrics.jsonl: TensorBoard files; a Weights & Biases project ("": none).
    cfg.ENGINE.TENSORBOARD = True
    cfg.ENGINE.WANDB_PROJECT = ""
    # Folder of everything that a training or evaluation writes.
    cfg.OUTPUT_DIR = "output"
