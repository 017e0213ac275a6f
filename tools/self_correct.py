#!/usr/bin/env python3
r"""Correct a coarse annotation set by iterative training (Video Mask Transfiner, section 3.2).

Iteration 1 trains a mask refiner on degraded masks of a clean set (DATASETS.TRAIN) and corrects
SELF_CORRECT.COARSE with it. Iteration k trains on degraded masks of the set corrected by iteration
k - 1, from its weights, and corrects that set again (or the coarse one anew, SELF_CORRECT.INPUT).
Before the first, and after each, masks of SELF_CORRECT.VAL_COARSE are refined too and scored
against SELF_CORRECT.VAL: tube boundary AP with true classes and identities. When it gains less than
SELF_CORRECT.MIN_GAIN points, the loop ends.

OUTPUT/iteration_<k>/ keeps train/ (weights, log), annotations.json (corrected), val.json,
report.html (the most changed frames) and scores.json. OUTPUT/refined.json is the original file
with the best iteration's masks as `segmentations_refined`; OUTPUT/scores.json has all scores.
Called again with the same arguments it goes on where it stopped; a folder of other settings or
annotations is refused. The small loop of the example takes an hour or more on two cores;
docs/howto/refine.md has the commands that make its data.

Example:
  python tools/self_correct.py --config-file configs/refine/self_correct_synthetic.yaml \
      --output output/self_correct
"""

from __future__ import annotations

import argparse
import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml
from fvcore.common.config import CfgNode

from cocoapi_hq import evaluate
from cocoapi_hq.exceptions import ScoringError
from vmt.apps.refine.job import refine_masks
from vmt.apps.refine.options import RefineOptions
from vmt.checkpoint.training_state import changed_keys
from vmt.config.node import load_config
from vmt.data.catalog import Located, locate
from vmt.utils.atomic import AtomicFile, make_folder
from vmt.utils.console import exit_with
from vmt.utils.errors import ConfigError, VmtError

logger = logging.getLogger("self_correct")
VMT = (sys.executable, "-m", "vmt.cli.main")
WEIGHTS = "model_final.safetensors"
REFINED = "segmentations_refined"
INPUTS = ("previous", "original")
#: Settings that may change between calls for one folder.
FREE = tuple(
    f"config.{key}"
    for key in ("SELF_CORRECT.ITERATIONS", "SELF_CORRECT.MIN_GAIN", "MODEL.DEVICE", "ENGINE.LOG")
)


class Loop:
    """All iterations of one run.

    Args:
        config_file: YAML of network, training and ``SELF_CORRECT``.
        overrides: alternating ``KEY VALUE``.
        output: folder of everything that is written.
        launch: options handed to ``vmt train``.
        device: for ``vmt refine``.
    """

    def __init__(
        self,
        config_file: Path,
        overrides: Sequence[str],
        output: Path,
        launch: Sequence[str],
        device: str,
    ) -> None:
        self.config_file, self.overrides = config_file, list(overrides)
        self.launch, self.device = list(launch), device
        cfg = load_config(config_file, overrides)
        self.cfg, self.rules = cfg, cfg.SELF_CORRECT
        self.coarse = self._located(cfg, "COARSE")
        self.val = self._located(cfg, "VAL") if self.rules.VAL else None
        self.truth = self._located(cfg, "TRUTH") if self.rules.TRUTH else None
        if not cfg.DATASETS.TRAIN:
            raise ConfigError(f"{config_file}: DATASETS.TRAIN names no clean set.")
        self.val_coarse = self._val_coarse(cfg) if self.val else None
        if self.rules.INPUT not in INPUTS:
            raise ConfigError(
                f"{config_file}: SELF_CORRECT.INPUT is {self.rules.INPUT!r}; choose "
                f"{' or '.join(INPUTS)}."
            )
        self.output = make_folder(output)
        self._claim()

    def _claim(self) -> None:
        """What is done in the folder must be of the same settings and annotations."""
        sets = {f"SELF_CORRECT.{key}": located for key, located in (
            ("COARSE", self.coarse), ("VAL", self.val), ("TRUTH", self.truth),
        ) if located}  # fmt: skip
        sets |= {name: locate(name, self.cfg.DATASETS.ROOT) for name in self.cfg.DATASETS.TRAIN}
        digests = {f"annotations of {name}": located.digest() for name, located in sets.items()}
        own = {"config": yaml.safe_load(self.cfg.dump())} | digests
        file = self.output / "settings.json"
        if not file.is_file():
            _write(file, own)
            return
        if changes := changed_keys(json.loads(file.read_text()), own, FREE):
            raise ConfigError(
                f"{self.output}: holds iterations of other settings or annotations "
                f"({changes[0][:200]}); choose another --output."
            )

    def _located(self, cfg: CfgNode, key: str) -> Located:
        reference = cfg.SELF_CORRECT[key]
        if not reference:
            raise ConfigError(f"{self.config_file}: SELF_CORRECT.{key} is empty.")
        return locate(reference, cfg.DATASETS.ROOT)

    def _val_coarse(self, cfg: CfgNode) -> Path:
        """The JSON of ``SELF_CORRECT.VAL_COARSE``, which may name a set too."""
        reference = cfg.SELF_CORRECT.VAL_COARSE
        if not reference or (Path(reference).suffix == ".json" and not Path(reference).is_file()):
            raise ConfigError(
                f"{self.config_file}: SELF_CORRECT.VAL_COARSE is {reference!r}, no file; "
                "it holds coarse masks of the annotations of SELF_CORRECT.VAL."
            )
        if Path(reference).is_file():
            return Path(reference)
        return self._located(cfg, "VAL_COARSE").annotations

    def run(self) -> list[dict[str, Any]]:
        """Do what is not done; returns the scores, those of the coarse masks first."""
        scores = [self._scores(self.output / "coarse_scores.json", None, None)]
        self._say(0, scores)
        for k in range(1, self.rules.ITERATIONS + 1):
            scores.append(self._iterate(k))
            self._say(k, scores)
            if self.val and k > 1 and self._gain(scores) < self.rules.MIN_GAIN:
                logger.info("stopped: the gain is below %g points", self.rules.MIN_GAIN)
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
        report = ("--report", str(folder / "report.html"))
        again = self.rules.INPUT == "previous"
        given = before if again else self._annotations(0)
        self._refine(given, self.coarse.images, corrected, weights, *report)
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
            extra += ["DATASETS.MASK_KEY", "segmentations"]  # where vmt refine puts its masks
            if self.rules.NEXT_STEPS:
                extra += ["SOLVER.MAX_STEPS", str(self.rules.NEXT_STEPS)]
                extra += ["SOLVER.MILESTONE_STEPS", f"[{self.rules.NEXT_STEPS * 4 // 5}]"]
        options = ["--config-file", str(self.config_file), "--resume", *self.launch]
        _call("train", *options, *self.overrides, *extra)

    def _refine(
        self, masks: Path, images: Path, output: Path, weights: Path, *options: str
    ) -> None:
        if output.is_file():
            return
        rules = ["--accept", str(self.rules.ACCEPT), "--window", str(self.rules.WINDOW)]
        files = ["--masks", str(masks), "--images", str(images), "--output", str(output)]
        _call(
            "refine", *files, "--weights", str(weights), "--device", self.device, *rules, *options
        )

    def _scores(self, file: Path, corrected: Path | None, val: Path | None) -> dict[str, Any]:
        """Scores of an iteration, from the file when they are there."""
        if file.is_file():
            kept: dict[str, Any] = json.loads(file.read_text())
            return kept
        found: dict[str, Any] = {}
        if self.val:
            assert self.val_coarse is not None, "set with the validation set"
            found["val"] = score(self.val.annotations, val or self.val_coarse)
        if self.truth:
            found["truth"] = score(self.truth.annotations, corrected or self.coarse.annotations)
        _write(file, found)
        return found

    def _gain(self, scores: Sequence[dict[str, Any]]) -> float:
        """Points of tube boundary AP of the last iteration over the one before."""
        now, before = (row["val"]["boundary_AP"] for row in (scores[-1], scores[-2]))
        return float(now - before)

    def _say(self, k: int, scores: Sequence[dict[str, Any]]) -> None:
        for name, row in scores[-1].items():
            numbers = "  ".join(f"{key} {value:.2f}" for key, value in row.items())
            logger.info("%s, %s: %s", f"iteration {k}" if k else "coarse", name, numbers)

    def _write_refined(self, best: int) -> None:
        """The original file and the masks of an iteration, side by side."""
        content = json.loads(self.coarse.annotations.read_text())
        if best:
            found = json.loads(self._annotations(best).read_text())["annotations"]
            masks = {row["id"]: row["segmentations"] for row in found}
            for row in content["annotations"]:
                row[REFINED] = masks[row["id"]]
        _write(self.output / "refined.json", content)


def score(truth: Path, masks: Path) -> dict[str, float]:
    """Masks of the annotations themselves, as if a network had found exactly them; in percent.

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
    found = evaluate(
        str(truth), results, ("tube_boundary", "tube_mask", "tracklet_quality"), mask_field="auto"
    )
    quality = found.others["tracklet_quality"]
    return {
        "boundary_AP": 100 * found.tubes["tube_boundary"].stats["AP"],
        "mask_AP": 100 * found.tubes["tube_mask"].stats["AP"],
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


def _call(*arguments: str) -> None:
    """Run a ``vmt`` command; what it says goes to the terminal."""
    logger.info("vmt %s", " ".join(arguments))
    if arguments[0] == "refine" and "--window" in arguments:  # no option of the console
        words = {key[2:]: value for key, value in pairwise(arguments) if key.startswith("--")}
        numbers = {"accept": float(words.pop("accept")), "window": int(words.pop("window"))}
        plain = {key: words.pop(key) for key in ("weights", "device")}
        places = {key: Path(value) for key, value in words.items()}
        logger.info("%s", refine_masks(RefineOptions(**places, **plain, **numbers), logger.info))
        return
    done = subprocess.run([*VMT, *arguments], check=False)
    if done.returncode:
        raise VmtError(
            f"vmt {arguments[0]} ended with status {done.returncode}; the lines above say why. "
            "What is done stays: call the same command again to go on."
        )


def _write(path: Path, content: Any) -> None:
    with AtomicFile(path) as file:
        file.write(json.dumps(content, indent=1).encode())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the loop; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder")
    parser.add_argument("--num-gpus", default="0", help="of the trainings (default 0: the CPU)")
    parser.add_argument("--device", default="auto", help="of the corrections (default auto)")
    parser.add_argument("overrides", nargs="*", metavar="KEY VALUE", help="config keys")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    launch = ["--num-gpus", args.num_gpus]
    try:
        Loop(args.config_file, args.overrides, args.output, launch, args.device).run()
    except (VmtError, ScoringError) as error:
        print(f"self_correct: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    exit_with(main)
