"""Frozen lists of video ids, so that people without access to a test server can compare.

A split file is one JSON object:

    {
      "format": "cocoapi_hq split, version 1",
      "name": "mini-val",
      "about": "one sentence: what for, drawn how",
      "source": {"file": "train.json", "videos": 1200, "sha256_of_ids": "..."},
      "seed": 0,
      "video_ids": [3, 17, 21]
    }

``video_ids`` is ascending and is what counts. ``source`` lets a reader notice that the list was
drawn from another file: the hash is SHA-256 of all video ids of that file, ascending, joined with
commas. ``seed`` is null for lists made by hand.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cocoapi_hq.exceptions import ScoringError
from cocoapi_hq.io.fields import is_int, short
from cocoapi_hq.io.json_file import Json, read_json

FORMAT = "cocoapi_hq split, version 1"


@dataclass(frozen=True)
class Split:
    """A list of video ids and where it comes from; the fields are those of the file."""

    name: str
    about: str
    source: dict[str, Any]
    seed: int | None
    video_ids: tuple[int, ...]

    def to_json(self) -> str:
        """The text of a split file."""
        fields = {
            "format": FORMAT,
            "name": self.name,
            "about": self.about,
            "source": self.source,
            "seed": self.seed,
            "video_ids": list(self.video_ids),
        }
        return json.dumps(fields, indent=1) + "\n"


def hash_ids(video_ids: list[int]) -> str:
    """SHA-256 of the ids, ascending, joined with commas."""
    text = ",".join(str(i) for i in sorted(video_ids))
    return hashlib.sha256(text.encode()).hexdigest()


def _video_ids(data: Json, name: str) -> list[int]:
    rows = data.get("videos") if isinstance(data, dict) else None
    if not isinstance(rows, list) or not all(isinstance(r, dict) for r in rows):
        raise ScoringError(f"{name}: no list of videos; a split is drawn from an annotation file.")
    ids = [r.get("id") for r in rows]
    bad = [i for i in ids if not is_int(i)]
    if bad or len(set(ids)) != len(ids):
        value = bad[0] if bad else "a repeated one"
        raise ScoringError(f"{name}: a video id is {short(value)}; give every video its integer.")
    return [int(i) for i in ids]


def draw(path: Path | str, count: int, *, seed: int = 0, name: str = "", about: str = "") -> Split:
    """Draw a split from an annotation file.

    Args:
        path: the annotation file.
        count: videos to draw, at least 1 and at most all.
        seed: the same seed draws the same videos from the same ids, on every machine.
        name: name of the split; "" makes one.
        about: one sentence for readers.

    Returns:
        The split.

    Raises:
        ScoringError: the file is no annotation file or has fewer videos.
    """
    path = Path(path)
    ids = sorted(_video_ids(read_json(path, path.name), path.name))
    if not 1 <= count <= len(ids):
        raise ScoringError(f"{path.name} has {len(ids)} videos; {count} cannot be drawn.")
    # random() is the same in every version of Python; sample() is not promised to be.
    generator = random.Random(seed)
    keyed = sorted((generator.random(), i) for i in ids)
    return Split(
        name or f"{path.stem}-{count}",
        about or f"{count} of {len(ids)} videos, drawn with seed {seed}",
        {"file": path.name, "videos": len(ids), "sha256_of_ids": hash_ids(ids)},
        seed,
        tuple(sorted(i for _, i in keyed[:count])),
    )


def read(path: Path | str) -> Split:
    """Read a split file; ScoringError names what breaks the format."""
    path = Path(path)
    data = read_json(path, path.name)
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ScoringError(f"{path.name}: no split file; its 'format' must be {FORMAT!r}.")
    ids = data.get("video_ids")
    if not isinstance(ids, list) or not ids or not all(map(is_int, ids)):
        raise ScoringError(f"{path.name}: video_ids is {short(ids)}; give a list of integers.")
    if ids != sorted(set(ids)):
        raise ScoringError(f"{path.name}: video_ids must be ascending, each once.")
    source, seed = data.get("source"), data.get("seed")
    return Split(
        str(data.get("name", "")),
        str(data.get("about", "")),
        source if isinstance(source, dict) else {},
        int(seed) if is_int(seed) else None,
        tuple(ids),
    )


def cut(path: Path | str, split: Split) -> tuple[Json, dict[str, int]]:
    """Keep the videos of a split.

    Args:
        path: annotation or result file.
        split: the videos to keep.

    Returns:
        The cut file, and counts of what was kept.

    Raises:
        ScoringError: neither kind of file, or an annotation file that lacks a video of the split.
    """
    path = Path(path)
    data = read_json(path, path.name)
    wanted = set(split.video_ids)
    if isinstance(data, list):
        kept = [e for e in data if isinstance(e, dict) and e.get("video_id") in wanted]
        return kept, {"results": len(kept)}
    ids = _video_ids(data, path.name)
    missing = sorted(wanted - set(ids))
    if missing:
        raise ScoringError(
            f"{path.name}: {len(missing)} videos of split {split.name!r} are not in the file, "
            f"first id {missing[0]}; the list was drawn from {split.source.get('file', '?')!r}."
        )
    out = dict(data)
    out["videos"] = [v for v in data["videos"] if v["id"] in wanted]
    counts = {"videos": len(out["videos"])}
    if isinstance(data.get("annotations"), list):
        out["annotations"] = [
            a for a in data["annotations"] if isinstance(a, dict) and a.get("video_id") in wanted
        ]
        counts["annotations"] = len(out["annotations"])
    return out, counts
