"""What ``tools/self_correct.py`` does: correct a coarse annotation set by iterative training.

Source: Video Mask Transfiner (arXiv:2207.14012), section 3.2. Iteration 1 trains a mask refiner on
degraded masks of a clean set and corrects the coarse set with it; iteration k trains on degraded
masks of what iteration k - 1 corrected, from its weights.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from cocoapi_hq import evaluate
from vmt.apps.refine.job import refine_masks
from vmt.apps.refine.options import RefineOptions
from vmt.checkpoint.training_state import changed_keys
from vmt.config.node import load_config
from vmt.data.catalog import Located, locate
from vmt.engine.job import Job, run_job
from vmt.engine.launch import LaunchOptions
from vmt.inference.refine_defaults import ACCEPT
from vmt.utils.atomic import make_folder, write_text
from vmt.utils.errors import ConfigError, VmtError

logger = logging.getLogger(__name__)
WEIGHTS = "model_final.safetensors"
REFINED = "segmentations_refined"
#: Settings that may change between calls for one folder.
FREE = ("options.iterations", "options.min_gain", "config.MODEL.DEVICE", "config.ENGINE.LOG")


@dataclass(frozen=True)
class Correction:
    """One loop, by the names of the options of ``tools/self_correct.py``.

    Args:
        config_file: YAML of network and training; ``DATASETS.TRAIN`` is the clean set.
        output: folder of everything that is written.
        coarse: set whose masks are corrected, a name or my.json@images.
        val: set with true masks, for scores and the stop rule; empty: all iterations run.
        val_coarse: its videos with coarse masks: a set, or a JSON alone.
        truth: true masks of ``coarse``, for studies that know them: scored, never trained on.
        input: what an iteration corrects: the result of the one before, or the coarse masks anew.
        iterations: at most; the paper made 4.
        min_gain: points of tube boundary AP below which the loop stops.
        next_steps: of iterations after the first; 0: ``SOLVER.MAX_STEPS``.
        accept: confidence above which a pixel takes its new label.
        window: frames refined together, for networks trained on clips.
        num_gpus: of the trainings; 0: the CPU.
        device: of the corrections.
        overrides: alternating ``KEY VALUE``.
    """

    config_file: str
    output: Path
    coarse: str
    val: str = ""
    val_coarse: str = ""
    truth: str = ""
    input: Literal["previous", "original"] = "previous"
    iterations: int = 4
    min_gain: float = 0.2
    next_steps: int = 0
    accept: float = ACCEPT
    window: int = 8
    num_gpus: int = 0
    device: str = "auto"
    overrides: Sequence[str] = ()


def self_correct(options: Correction) -> list[dict[str, Any]]:
    """Do what is not done yet in the folder of a loop.

    Returns:
        The scores of every iteration, those of the coarse masks first.

    Raises:
        VmtError: a set, the config or the folder cannot be used, or a training was stopped; what
            is done stays.
    """
    return _Loop(options).run()


class _Loop:
    def __init__(self, options: Correction) -> None:
        self.options = options
        self.cfg = load_config(options.config_file, options.overrides)
        self.coarse = self._located("coarse")
        self.val = self._located("val") if options.val else None
        self.truth = self._located("truth") if options.truth else None
        if not self.cfg.DATASETS.TRAIN:
            raise ConfigError(f"{options.config_file}: DATASETS.TRAIN names no clean set.")
        self.val_coarse = self._val_coarse() if self.val else None
        self.output = make_folder(options.output)
        self._claim()

    def _claim(self) -> None:
        """What is done in the folder must be of the same settings and annotations."""
        sets = {"--coarse": self.coarse, "--val": self.val, "--truth": self.truth}
        root = self.cfg.DATASETS.ROOT
        sets |= {name: locate(name, root) for name in self.cfg.DATASETS.TRAIN}
        digests = {f"annotations of {name}": one.digest() for name, one in sets.items() if one}
        asked = asdict(self.options)
        options = {name: asked[name] for name in (
            "coarse", "val", "val_coarse", "truth", "input", "iterations", "min_gain", "next_steps",
            "accept", "window",
        )}  # fmt: skip
        own = {"config": yaml.safe_load(self.cfg.dump()), "options": options} | digests
        file = self.output / "settings.json"
        if not file.is_file():
            _write(file, own)
            return
        if changes := changed_keys(json.loads(file.read_text()), own, FREE):
            raise ConfigError(
                f"{self.output}: holds iterations of other settings or annotations "
                f"({changes[0][:200]}); choose another --output."
            )

    def _located(self, name: str) -> Located:
        reference = getattr(self.options, name)
        if not reference:
            raise ConfigError(f"--{name} is empty; name a set, or my.json@images.")
        return locate(reference, self.cfg.DATASETS.ROOT)

    def _val_coarse(self) -> Path:
        """The JSON of ``val_coarse``, which may name a set too."""
        reference = self.options.val_coarse
        if not reference or (Path(reference).suffix == ".json" and not Path(reference).is_file()):
            raise ConfigError(
                f"--val-coarse is {reference!r}, no file; it holds coarse masks of the annotations "
                "of --val."
            )
        if Path(reference).is_file():
            return Path(reference)
        return self._located("val_coarse").annotations

    def run(self) -> list[dict[str, Any]]:
        scores = [self._scores(self.output / "coarse_scores.json", None, None)]
        _say(0, scores)
        for k in range(1, self.options.iterations + 1):
            scores.append(self._iterate(k))
            _say(k, scores)
            if not self.val or k == 1:
                continue
            now, before = (row["val"]["boundary_AP"] for row in (scores[-1], scores[-2]))
            if now - before < self.options.min_gain:
                logger.info("stopped: the gain is below %g points", self.options.min_gain)
                break
        best = len(scores) - 1
        if self.val:
            best = max(range(len(scores)), key=lambda k: scores[k]["val"]["boundary_AP"])
        self._write_refined(best)
        _write(self.output / "scores.json", {"best_iteration": best, "iterations": scores})
        return scores

    def _iterate(self, k: int) -> dict[str, Any]:
        folder = make_folder(self.output / f"iteration_{k}")
        before = self._annotations(k - 1)
        weights = folder / "train" / WEIGHTS
        if not weights.is_file():
            self._train(k, folder / "train", before)
        corrected = folder / "annotations.json"
        again = self.options.input == "previous"
        given = before if again else self._annotations(0)
        self._refine(given, self.coarse.images, corrected, weights, folder / "report.html")
        val = None
        if self.val:
            val = folder / "val.json"
            # Like the set itself.
            assert self.val_coarse is not None, "set with the validation set"
            given = self.val_coarse
            if again and k > 1:
                given = self.output / f"iteration_{k - 1}" / "val.json"
            self._refine(given, self.val.images, val, weights)
        return self._scores(folder / "scores.json", corrected, val)

    def _annotations(self, k: int) -> Path:
        if k == 0:
            return self.coarse.annotations
        return self.output / f"iteration_{k}" / "annotations.json"

    def _train(self, k: int, folder: Path, corrected: Path) -> None:
        extra = ["OUTPUT_DIR", str(folder), "DATASETS.TEST", "[]"]
        if k > 1:
            previous = self.output / f"iteration_{k - 1}" / "train" / WEIGHTS
            source = json.dumps([f"{corrected}@{self.coarse.images}"])
            extra += ["DATASETS.TRAIN", source, "DATASETS.RATIOS", "[]"]
            extra += ["DATASETS.CATEGORY_MAPS", "[]", "MODEL.WEIGHTS", str(previous)]
            extra += ["DATASETS.MASK_KEY", "segmentations"]  # where refined masks are
            if steps := self.options.next_steps:
                extra += ["SOLVER.MAX_STEPS", str(steps)]
                extra += ["SOLVER.MILESTONE_STEPS", f"[{steps * 4 // 5}]"]
        job = Job(self.options.config_file, (*self.options.overrides, *extra), resume=True)
        status = run_job(job, LaunchOptions(num_gpus=self.options.num_gpus))
        if status:
            raise VmtError(
                f"the training of iteration {k} ended with status {status}; the lines above say "
                "why. What is done stays: call the same command again to go on."
            )

    def _refine(
        self, masks: Path, images: Path, output: Path, weights: Path, report: Path | None = None
    ) -> None:
        if output.is_file():
            return
        options = RefineOptions(
            masks=masks,
            output=output,
            images=images,
            accept=self.options.accept,
            window=self.options.window,
            report=report,
            weights=str(weights),
            device=self.options.device,
        )
        logger.info(refine_masks(options, say=logger.info))

    def _scores(self, file: Path, corrected: Path | None, val: Path | None) -> dict[str, Any]:
        """Scores of an iteration, from the file when they are there."""
        scores: dict[str, Any] = {}
        if file.is_file():
            scores = json.loads(file.read_text())
            return scores
        if self.val:
            assert self.val_coarse is not None, "set with the validation set"
            scores["val"] = score(self.val.annotations, val or self.val_coarse)
        if self.truth:
            scores["truth"] = score(self.truth.annotations, corrected or self.coarse.annotations)
        _write(file, scores)
        return scores

    def _write_refined(self, best: int) -> None:
        """The original file and the masks of an iteration, side by side."""
        content = json.loads(self.coarse.annotations.read_text())
        if best:
            corrected = json.loads(self._annotations(best).read_text())["annotations"]
            masks = {row["id"]: row["segmentations"] for row in corrected}
            for row in content["annotations"]:
                row[REFINED] = masks[row["id"]]
        _write(self.output / "refined.json", content)


def _say(k: int, scores: Sequence[dict[str, Any]]) -> None:
    for name, row in scores[-1].items():
        numbers = "  ".join(f"{key} {value:.2f}" for key, value in row.items())
        logger.info("%s, %s: %s", f"iteration {k}" if k else "coarse", name, numbers)


def score(truth: Path, masks: Path) -> dict[str, float]:
    """Masks of the annotations themselves, as if a network had given exactly them; in percent.

    Args:
        truth: YouTube-VIS JSON; ``segmentations_refined`` are its masks where it has them.
        masks: the same videos and objects with other masks.

    Returns:
        ``boundary_AP``, ``mask_AP``, ``boundary_iou``, ``boundary_error`` (100 - boundary IoU) and
        ``flicker`` (temporal stability).

    Raises:
        ConfigError: the two files are about different videos.
    """
    content = json.loads(masks.read_text())
    id_of = _same_videos(truth, masks, content["videos"])
    results = [
        {
            "video_id": id_of[row["video_id"]],
            "category_id": row["category_id"],
            "segmentations": row["segmentations"],
            "score": 1.0,
        }
        for row in content["annotations"]
    ]
    scores = evaluate(
        str(truth), results, ("tube_boundary", "tube_mask", "tracklet_quality"), mask_field="auto"
    )
    quality = scores.others["tracklet_quality"]
    return {
        "boundary_AP": 100 * scores.tubes["tube_boundary"].stats["AP"],
        "mask_AP": 100 * scores.tubes["tube_mask"].stats["AP"],
        "boundary_iou": 100 * quality["boundary_iou"],
        "boundary_error": 100 - 100 * quality["boundary_iou"],
        "flicker": 100 * quality["stability"],
    }


def _same_videos(truth: Path, masks: Path, videos: Sequence[dict[str, Any]]) -> dict[int, int]:
    """Video id in ``masks`` -> in ``truth``, by the folders of frames: files may count apart."""
    theirs = {_folder(row): row["id"] for row in videos}
    ours = {_folder(row): row["id"] for row in json.loads(truth.read_text())["videos"]}
    if apart := sorted(theirs.keys() ^ ours.keys()):
        raise ConfigError(
            f"{masks}: has other videos than {truth}: {len(apart)} are in one of them alone "
            f"(first: {apart[0]}); cut both by one split (datasets/prepare_hq_ytvis.py --cut)."
        )
    return {key: ours[name] for name, key in theirs.items()}


def _folder(video: dict[str, Any]) -> str:
    name: str = video["file_names"][0]
    return Path(name).parent.name or name


def _write(path: Path, content: Any) -> None:
    write_text(path, json.dumps(content, indent=1))
