"""Every config key with its default, unit and source. Nothing else may define a default.

Sources: [S] SeqFormer code, [R] released VMT code, [P] VMT paper, [V] SeqFormer's detectron2 port,
[D] our decision (docs/decisions.md).
"""

from __future__ import annotations

from fvcore.common.config import CfgNode as Node


def default_config() -> Node:
    """A fresh config that holds every key; YAML files and overrides may only change these."""
    cfg = Node()

    cfg.MODEL = Node()
    # Name in the registry META_ARCHITECTURES.
    cfg.MODEL.META_ARCHITECTURE = "VideoMaskTransfiner"
    # "auto" takes a GPU when there is one; or any torch device name.
    cfg.MODEL.DEVICE = "auto"
    # Weight file: published layout (.pth) or ours (.safetensors). Empty: random weights, which no
    # frozen backbone may start a training with unless NEW_PARAMETERS says so.
    cfg.MODEL.WEIGHTS = ""
    # Prefixes of our parameter names that start a training newly initialised: a weight file may
    # lack them. Without WEIGHTS, "backbone." says that a random backbone is meant.
    cfg.MODEL.NEW_PARAMETERS = []
    # Which classes the head predicts; a name of vmt.data.datasets.categories.
    cfg.MODEL.LABEL_SPACE = "ytvis_2019"
    # ImageNet statistics of RGB in [0, 255] [S].
    cfg.MODEL.PIXEL_MEAN = [123.675, 116.28, 103.53]
    cfg.MODEL.PIXEL_STD = [58.395, 57.12, 57.375]

    cfg.MODEL.BACKBONE = Node()
    # resnet50, resnet101, swin_l_p4w12, or timm/<any timm name with feature maps>.
    cfg.MODEL.BACKBONE.NAME = "resnet50"
    # ImageNet weights through timm at construction (needs the network or a cache).
    cfg.MODEL.BACKBONE.PRETRAINED = False
    # Stages whose weights stay fixed, counted from the stem; 2 = conv1 and layer1 [S].
    cfg.MODEL.BACKBONE.FREEZE_STAGES = 2
    # Stochastic depth of Swin in training [S].
    cfg.MODEL.BACKBONE.DROP_PATH = 0.3
    # timm networks only: "frozen" batch norm, or "group" norm, which learns from random weights;
    # channels of the stages (none: the network's own) [D].
    cfg.MODEL.BACKBONE.NORM = "frozen"
    cfg.MODEL.BACKBONE.WIDTHS = []

    cfg.MODEL.SEQFORMER = Node()  # all values [S]
    cfg.MODEL.SEQFORMER.HIDDEN_DIM = 256
    cfg.MODEL.SEQFORMER.NUM_HEADS = 8
    cfg.MODEL.SEQFORMER.FFN_DIM = 1024
    cfg.MODEL.SEQFORMER.DROPOUT = 0.1
    cfg.MODEL.SEQFORMER.ENCODER_LAYERS = 6
    cfg.MODEL.SEQFORMER.DECODER_LAYERS = 6
    cfg.MODEL.SEQFORMER.NUM_LEVELS = 4
    cfg.MODEL.SEQFORMER.NUM_POINTS = 4
    cfg.MODEL.SEQFORMER.NUM_QUERIES = 300
    # Channels of the dynamic mask head's hidden layers.
    cfg.MODEL.SEQFORMER.MASK_CHANNELS = 8
    # What methods add: beside the attention of every encoder layer (registry ENCODER_BRANCHES),
    # and between the frames of every box query (registry BOX_MIXERS). "none": SeqFormer [D].
    cfg.MODEL.SEQFORMER.ENCODER_BRANCH = "none"
    cfg.MODEL.SEQFORMER.BOX_MIXER = "none"

    # A network with an optimiser of its own that is trained beside the model and judges it: a name
    # in the registry AUXILIARIES, or "none" [D].
    cfg.MODEL.AUXILIARY = "none"

    cfg.MODEL.MSTS = Node()  # MS-STS VIS, all values [D] (docs/methods/msts.md)
    # Widths of its attention blocks: "lean" (64, as its published size suggests) or "full" (256).
    cfg.MODEL.MSTS.PRESET = "lean"
    cfg.MODEL.MSTS.NUM_HEADS = 8
    # How a level meets the next coarser one: as more tokens or as more channels.
    cfg.MODEL.MSTS.CONCAT = "token"
    # Attention over time inside levels alone, none between levels.
    cfg.MODEL.MSTS.INTRA_ONLY = False
    # Loss by which the model fools the discriminator: its weight, steps of a linear ramp from 0,
    # and whether its gradient reaches the encoder's maps directly or through the masks alone.
    cfg.MODEL.MSTS.ADV_WEIGHT = 0.1
    cfg.MODEL.MSTS.ADV_RAMP_STEPS = 1000
    cfg.MODEL.MSTS.ADV_THROUGH_FEATURES = True
    # The discriminator: its target for annotated masks, Adam, largest norm of its gradients.
    cfg.MODEL.MSTS.ADV_REAL_LABEL = 0.9
    cfg.MODEL.MSTS.ADV_LR = 1e-4
    cfg.MODEL.MSTS.ADV_BETAS = [0.5, 0.999]
    cfg.MODEL.MSTS.ADV_CLIP = 1.0

    cfg.MODEL.REFINER = Node()
    # "none" (SeqFormer) or a name in the registry REFINERS.
    cfg.MODEL.REFINER.NAME = "none"
    # Width, heads, layers, feed-forward width of the refinement transformer [R].
    cfg.MODEL.REFINER.EMBED_DIM = 64
    cfg.MODEL.REFINER.NUM_HEADS = 4
    cfg.MODEL.REFINER.NUM_LAYERS = 3
    cfg.MODEL.REFINER.FFN_DIM = 2048
    cfg.MODEL.REFINER.DROPOUT = 0.1
    # Most points refined. dense_band: per frame, above it those nearest to a contour [R: 12000];
    # quadtree: per tracklet and 40 frames (of a longer video accordingly more), above it those the
    # detector is surest of, with their parents. What is left out is counted in the log.
    cfg.MODEL.REFINER.MAX_POINTS = 12000
    # "release" wraps boxes that start left of or above the frame as the released code does
    # (docs/reference/released_code.md#boxes); "clamp" cuts them at the frame.
    cfg.MODEL.REFINER.BOX_MASK = "release"
    # From here on for "quadtree" (docs/methods/vmt.md). Nodes of all frames of a tracklet form one
    # sequence (quadtree sequence grouping); False: each frame alone [P, Table 1].
    cfg.MODEL.REFINER.QSG = True
    # Instance guidance after every node attention layer [P].
    cfg.MODEL.REFINER.IGL = True
    # What the detector learns to mark: "incoherent" or "boundary" cells [P, Table 2].
    cfg.MODEL.REFINER.REGION = "incoherent"
    # "residue" (routine of the released code) or "mixed" (definition of Mask Transfiner):
    # docs/reference/released_code.md#region.
    cfg.MODEL.REFINER.REGION_RULE = "residue"
    # A cell above a marked one is marked too, so that the tree can reach it [D].
    cfg.MODEL.REFINER.REGION_CLOSED = True
    # Weights of the detector: from the "video_query", from one "frame_query" per frame, or fixed
    # ("fcn") [P, Table 2].
    cfg.MODEL.REFINER.DETECTOR = "video_query"
    # Size of its kernels: 3 [P], or 1 [R], which published files initialise.
    cfg.MODEL.REFINER.INC_KERNEL = 3
    # Scores from which a cell of H/8, H/4, H/2 is a node [D].
    cfg.MODEL.REFINER.INC_THRESHOLDS = [0.5, 0.5, 0.5]
    # Sizes of the three convolutions on the image: [3, 3, 3] [P], [3, 1, 1] [R].
    cfg.MODEL.REFINER.RGB_KERNELS = [3, 3, 3]
    # How a node's value reaches the finer cells below it: "bilinear" or "nearest" [D].
    cfg.MODEL.REFINER.PROPAGATION = "bilinear"
    # Nodes in training: "detected", "truth" (the annotation's region) or "union" [D].
    cfg.MODEL.REFINER.TRAIN_NODES = "union"
    # Most nodes in training, at random: per tracklet, level and frame; per tracklet. Most tracklets
    # per clip. 0: no limit [D].
    cfg.MODEL.REFINER.TRAIN_FRAME_POINTS = 300
    cfg.MODEL.REFINER.TRAIN_POINTS = 4000
    cfg.MODEL.REFINER.TRAIN_TRACKLETS = 10
    # Nodes attend within squares of so many stride-8 cells, over all frames [P: 0, to all].
    cfg.MODEL.REFINER.WINDOW = 0
    # Tokens are made of squares of so many cells per side around their node: 1, 3, 5 [P: silent].
    cfg.MODEL.REFINER.CONTEXT = 1
    # Attention falls with the distance of nodes on the object: reach of the first head at the
    # start, in pixels; further heads reach twice as far each. 0: it does not [P: silent].
    cfg.MODEL.REFINER.REACH_PX = 0.0
    # Layers that all tracklets share add to what the dynamic pixel decoder says of a node [D].
    cfg.MODEL.REFINER.SHARED_HEAD = False
    # Both refiners: pixels that count as 1 in the offsets to the instance's centre [R: 1].
    cfg.MODEL.REFINER.OFFSET_UNIT_PX = 1.0
    # Both refiners: let gradients reach the backbone's stride-4 and stride-2 maps [R: False].
    cfg.MODEL.REFINER.TRAIN_MAPS = False

    cfg.MODEL.MASK_REFINER = Node()  # META_ARCHITECTURE MaskRefiner [D]
    # Where the instance query comes from: "mask_pool", the features under the mask; or "detector",
    # a frozen SeqFormer on whole frames [P]. Of the following keys it reads BAND_CELLS and
    # PROMPT_LEVELS only, and REFINER.TRAIN_TRACKLETS.
    cfg.MODEL.MASK_REFINER.QUERY_SOURCE = "mask_pool"
    # Channels of its stride-8 map and query.
    cfg.MODEL.MASK_REFINER.DIM = 64
    # Objects are cut out with their surroundings; cut-outs whose longer side is shorter than the
    # first or longer than the second, in pixels, are resized.
    cfg.MODEL.MASK_REFINER.CROP_SIZES = [96, 384]
    # Surroundings on each side: share of the longer side, and least number of pixels.
    cfg.MODEL.MASK_REFINER.MARGIN = 0.1
    cfg.MODEL.MASK_REFINER.MIN_MARGIN_PX = 24
    # Stride-8 cells around the coarse contour that are refined whatever the detector says.
    cfg.MODEL.MASK_REFINER.BAND_CELLS = 1
    # Levels of the quadtree that know the given mask at their own resolution: its band and its
    # share of each cell. 3: all; 1: the coarsest, whose values the finer ones interpolate.
    cfg.MODEL.MASK_REFINER.PROMPT_LEVELS = 3
    # Windows in which colours inside and outside of the coarse mask are compared; none: nowhere.
    cfg.MODEL.MASK_REFINER.COLOUR_RADII_PX = []
    # Most tracklets per clip in training, at random; 0: all.
    cfg.MODEL.MASK_REFINER.TRAIN_TRACKLETS = 2
    # Weight of the cross entropy of masks that the stride-8 map alone tells, in training; 0: none.
    cfg.MODEL.MASK_REFINER.DENSE_WEIGHT = 0.0

    cfg.MODEL.LOSS = Node()  # weights and focal parameters [S]
    cfg.MODEL.LOSS.CLASS_WEIGHT = 2.0
    cfg.MODEL.LOSS.BOX_WEIGHT = 5.0
    cfg.MODEL.LOSS.GIOU_WEIGHT = 2.0
    cfg.MODEL.LOSS.MASK_WEIGHT = 2.0
    cfg.MODEL.LOSS.DICE_WEIGHT = 5.0
    cfg.MODEL.LOSS.FOCAL_ALPHA = 0.25
    cfg.MODEL.LOSS.FOCAL_GAMMA = 2.0
    # Losses on the decoder layers before the last.
    cfg.MODEL.LOSS.DEEP_SUPERVISION = True
    # Refiner [D]: mask focal, tube dice, dice inside the incoherent region, stage-2 mask focal.
    cfg.MODEL.LOSS.REFINE_MASK_WEIGHT = 2.0
    cfg.MODEL.LOSS.REFINE_DICE_WEIGHT = 5.0
    cfg.MODEL.LOSS.REFINE_BOUNDARY_WEIGHT = 5.0
    cfg.MODEL.LOSS.REFINE_STAGE2_WEIGHT = 2.0
    # Quadtree [D]: L1 of node probabilities; BCE and dice of the detector, mean of its levels.
    cfg.MODEL.LOSS.REFINE_NODE_WEIGHT = 2.0
    cfg.MODEL.LOSS.INC_WEIGHT = 1.0
    cfg.MODEL.LOSS.INC_DICE_WEIGHT = 1.0

    cfg.MODEL.MATCHER = Node()
    cfg.MODEL.MATCHER.CLASS_COST = 2.0
    cfg.MODEL.MATCHER.BOX_COST = 5.0
    cfg.MODEL.MATCHER.GIOU_COST = 2.0
    # "l2": distance of the flattened (T*4) box vectors [S]; "l1": absolute difference summed over
    # the 4 coordinates, averaged over frames.
    cfg.MODEL.MATCHER.BOX_NORM = "l2"
    # Leave frames in which a tracklet is absent out of box costs and losses ([S]: False).
    cfg.MODEL.MATCHER.MASK_ABSENT = False

    cfg.INPUT = Node()
    # Short side at test time and bound of the long side, in pixels; 0 = no bound [R].
    cfg.INPUT.MIN_SIZE_TEST = 360
    cfg.INPUT.MAX_SIZE_TEST = 0

    # Frames per training clip, T [S].
    cfg.INPUT.CLIP_FRAMES = 5
    # Which frames join the key frame: "local_global" (near neighbours and frames from afar, all
    # different while the video has enough), "release" (the published draw with its repeats), or
    # "range" (any frames within SAMPLER_RANGE); docs/reference/released_code.md#sampler compares.
    cfg.INPUT.SAMPLER = "local_global"
    # Frames to either side of the key frame, for "range" [V].
    cfg.INPUT.SAMPLER_RANGE = 20
    # "default": flip, resize or crop and resize, colours, one draw per clip; "release": published
    # order and quirks [S] (docs/reference/released_code.md#augmentation); "lsj": large-scale
    # jitter; "none": resize alone.
    cfg.INPUT.AUGMENTATION = "default"
    # Probability of a horizontal flip of the whole clip [S].
    cfg.INPUT.FLIP_PROB = 0.5
    # Probability of colour changes in "default" and "lsj" [D]; "release" has its own.
    cfg.INPUT.COLOR_PROB = 0.8
    # Short sides of which one is drawn per clip, and bound of the long side (0: none), pixels [S].
    cfg.INPUT.MIN_SIZE_TRAIN = [288, 320, 352, 392, 416, 448, 480, 512]
    cfg.INPUT.MAX_SIZE_TRAIN = 768
    # Probability of a crop before that resize; the short sides it starts from, and the least and
    # greatest side of the crop, pixels [S].
    cfg.INPUT.CROP_PROB = 0.5
    cfg.INPUT.CROP_MIN_SIZES = [400, 500, 600]
    cfg.INPUT.CROP_SIZE = [384, 600]
    # "lsj": (h, w) in pixels, and the range of the scale relative to what fits into it [D].
    cfg.INPUT.LSJ_SIZE = [480, 768]
    cfg.INPUT.LSJ_SCALE = [0.5, 2.0]
    # Images as clips: "native" (a smooth camera path, overlaps kept) or "release" (shuffled
    # distorted copies, overlaps go to the later object [S]);
    # see docs/reference/released_code.md#pseudo-clips.
    cfg.INPUT.PSEUDO_CLIP = "native"
    # Images with more objects are left out of training; 0: none is [S].
    cfg.INPUT.MAX_IMAGE_OBJECTS = 25
    # Tracklets that no frame of the clip shows stay targets ([S]: True).
    cfg.INPUT.KEEP_INVISIBLE = False
    # For a mask refiner: what makes its input coarse, one drawn per tracklet: kinds of
    # `vmt degrade` and "clean", as often as named; none: samples have no coarse masks [D].
    cfg.INPUT.DEGRADE = []

    cfg.DATASETS = Node()
    # Folder of the data sets; empty: $DETECTRON2_DATASETS, or ./datasets.
    cfg.DATASETS.ROOT = ""
    # Names of vmt/data/datasets/splits.py, or path/to.json@path/to/images.
    cfg.DATASETS.TRAIN = []
    cfg.DATASETS.TEST = []
    # Share of clips per training set, any positive numbers; empty: every key frame once per epoch,
    # all sets shuffled together [S].
    cfg.DATASETS.RATIOS = []
    # Per training set a map of vmt/data/datasets/categories.py (COCO to the target), or ""; empty:
    # no maps. What a map lacks is dropped.
    cfg.DATASETS.CATEGORY_MAPS = []
    # Key of the masks; empty: as the split says. Falls back to "segmentations" where absent [R].
    cfg.DATASETS.MASK_KEY = ""
    # How categories of a file find their label: "name" (case and -_ do not matter), "id", or "any"
    # (class-agnostic: every category is label 0).
    cfg.DATASETS.CLASS_MATCH = "name"
    # Categories that the label space lacks: "fail" or "drop" (their objects count as background).
    cfg.DATASETS.UNKNOWN_CLASSES = "fail"

    cfg.DATALOADER = Node()
    # Seed of order, frames and augmentation; no result depends on the number of workers [S].
    cfg.DATALOADER.SEED = 42
    # Processes that prepare clips, per training process; 0: the training process itself.
    cfg.DATALOADER.NUM_WORKERS = 2
    # Batches that each worker prepares ahead.
    cfg.DATALOADER.PREFETCH = 2
    # Seconds without a batch from the workers after which training ends with an error; 0: never.
    cfg.DATALOADER.TIMEOUT = 300
    # A frame that is missing or damaged, masks that are: "skip" (named, counted, another clip is
    # drawn) or "fail".
    cfg.DATALOADER.ON_ERROR = "skip"
    # Draws for one place in a batch before training ends with an error.
    cfg.DATALOADER.MAX_REDRAWS = 100

    cfg.TEST = Node()
    # Frames per window; 0 = the whole video at once, as the release runs [R].
    cfg.TEST.WINDOW = 0
    # Step between windows; 0 = WINDOW - 1 [D].
    cfg.TEST.STRIDE = 0
    # (query, class) pairs kept per clip [R].
    cfg.TEST.TOP_K = 10
    # Frames per pass through backbone, encoder and refiner; bounds memory, changes no result.
    cfg.TEST.FRAME_CHUNK = 2
    # Network output is cut to the input size before it is stretched to the video's
    # ([R]: False, docs/reference/released_code.md#odd-sizes).
    cfg.TEST.CROP_TO_INPUT = True
    # "fp32"; "tf32": a GPU rounds the factors of products to 10 bits; "bf16", "fp16": autocast.
    cfg.TEST.PRECISION = "fp32"
    # Overlay and CSV show tracks from this score on; results.json keeps all.
    cfg.TEST.CONFIDENCE = 0.3
    # Steps between evaluations during training; 0: only at the end.
    cfg.TEST.EVAL_PERIOD = 0
    # Metrics of cocoapi_hq for results that are scored; empty: no scoring.
    cfg.TEST.METRICS = ["tube_mask", "tube_boundary"]
    # Rules of scoring: hq_ytvis, ovis, ...; empty: by the fields of the annotations.
    cfg.TEST.PROTOCOL = ""
    # The number that decides which weights are the best: metric/number.
    cfg.TEST.BEST_METRIC = "tube_mask/AP"
    # Processes for scoring.
    cfg.TEST.JOBS = 1
    # Also write results.zip, as the evaluation servers take it.
    cfg.TEST.ZIP = False
    # A video that cannot be read is logged and left out; False: it ends the evaluation.
    cfg.TEST.SKIP_BROKEN_VIDEOS = False
    # [data set, metric/number, value, tolerance] rows that an evaluation must meet (AP: 0 to 1).
    cfg.TEST.EXPECTED_RESULTS = []

    cfg.SOLVER = Node()
    # Clips of one step, over all processes [S].
    cfg.SOLVER.CLIPS_PER_BATCH = 16
    # AdamW [S]; learning rates of the backbone, and of reference points and sampling offsets, are
    # this times their factor.
    cfg.SOLVER.BASE_LR = 2e-4
    cfg.SOLVER.BACKBONE_FACTOR = 0.1
    cfg.SOLVER.SAMPLING_FACTOR = 0.1
    cfg.SOLVER.WEIGHT_DECAY = 1e-4
    # Length in epochs and, in epochs counted from 0, when learning rates are multiplied by GAMMA
    # [S][P]. An epoch: every frame of every video once as key frame, every image once.
    cfg.SOLVER.EPOCHS = 12
    cfg.SOLVER.MILESTONES = [4, 10]
    cfg.SOLVER.GAMMA = 0.1
    # Above 0: length in steps, and MILESTONE_STEPS count in place of both keys above [V].
    cfg.SOLVER.MAX_STEPS = 0
    cfg.SOLVER.MILESTONE_STEPS = []
    # Linear warm-up from WARMUP_FACTOR to 1 [D: off, as S].
    cfg.SOLVER.WARMUP_STEPS = 0
    cfg.SOLVER.WARMUP_FACTOR = 0.001
    # Largest L2 norm of all gradients together; 0: no limit [S; V: 0.01].
    cfg.SOLVER.CLIP_GRADIENTS = 0.1
    # Prefixes of our parameter names that stay as they are, for instance "coarse." and "refiner.",
    # the mask head of VMT [P, Table 4].
    cfg.SOLVER.FREEZE = []
    # Parts in which a process takes its share of a step; bounds memory, changes no gradient.
    cfg.SOLVER.ACCUMULATE = 1

    cfg.ENGINE = Node()
    # Random numbers of process r start from SEED + r [S].
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
    # Minutes after which a process stops to wait for the others and fails.
    cfg.ENGINE.TIMEOUT_MINUTES = 30

    cfg.SELF_CORRECT = Node()  # tools/self_correct.py; DATASETS.TRAIN is the clean set
    # Set whose masks are corrected, a name or my.json@images (as all sets of this section).
    cfg.SELF_CORRECT.COARSE = ""
    # Set with true masks, and the same videos with coarse ones (a set, or a JSON alone), for the
    # stop rule.
    cfg.SELF_CORRECT.VAL = ""
    cfg.SELF_CORRECT.VAL_COARSE = ""
    # True masks of COARSE, for studies that know them: scored, never trained on.
    cfg.SELF_CORRECT.TRUTH = ""
    # What an iteration corrects: "previous", the result of the one before [D]; or "original", the
    # coarse masks, anew, with the better network.
    cfg.SELF_CORRECT.INPUT = "previous"
    # Most iterations [P: 4], and gain in tube boundary AP, in points, below which to stop [D].
    cfg.SELF_CORRECT.ITERATIONS = 4
    cfg.SELF_CORRECT.MIN_GAIN = 0.2
    # Steps of iterations after the first; 0: SOLVER.MAX_STEPS.
    cfg.SELF_CORRECT.NEXT_STEPS = 0
    # Confidence above which a pixel takes its new label [P], and frames per window [D].
    cfg.SELF_CORRECT.ACCEPT = 0.65
    cfg.SELF_CORRECT.WINDOW = 8

    cfg.OUTPUT_DIR = "output"
    return cfg
