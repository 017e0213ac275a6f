"""500 mutated files with a fixed seed: a ScoringError or the score of the slow reference."""

from __future__ import annotations

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

import cocoapi_hq
from cocoapi_hq import ScoringError
from cocoapi_hq.check.files import check_annotations, check_results
from tests.cocoapi_hq import reference_tube_ap as reference
from tests.cocoapi_hq.tube_cases import random_set

NUM_FILES = 500
VALUES = (
    None, True, False, 0, 1, -1, 2, 3, 0.5, 1e308, float("nan"), float("inf"), 10**30, 10**400, "",
    "1", "text", "d0", [], [1], [[]], {}, {"size": [4, 4], "counts": "`0"},
    {"size": [2, 2], "counts": [4]}, {"size": [40, 60], "counts": [2400]}, [[1, 1, 9, 1, 9, 9]],
)  # fmt: skip


def places(data: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place of a document."""
    out = [path] if path else []
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        if isinstance(value, (dict, list)):
            out += places(value, (*path, key))
        else:
            out.append((*path, key))
    return out


def mutate(data: Any, rng: random.Random) -> None:
    """Change one to three places in place."""
    for _ in range(rng.randint(1, 3)):
        options = places(data)
        if not options:
            return
        path = rng.choice(options)
        at = data
        for key in path[:-1]:
            at = at[key]
        key, kind = path[-1], rng.random()
        if kind < 0.35:
            at[key] = copy.deepcopy(rng.choice(VALUES))
        elif kind < 0.5:
            del at[key]
        elif kind < 0.6 and isinstance(at, list):
            at.insert(key, copy.deepcopy(at[key]))
        elif isinstance(at[key], str) and at[key]:
            at[key] = mutate_text(at[key], rng)
        elif isinstance(at[key], (int, float)) and not isinstance(at[key], bool):
            at[key] = at[key] + rng.choice([-1, 1, 0.5, 1000, -at[key]])


def mutate_text(text: str, rng: random.Random) -> str:
    k = rng.randrange(len(text))
    return rng.choice(
        [text[:k], text[k:], text[:k] + chr(rng.randrange(1, 300)) + text[k + 1 :], text * 2,
         text[:k] + text[k + 1 :], text[:k] + rng.choice("0123PQop") + text[k:]]
    )  # fmt: skip


def mutate_bytes(raw: bytes, rng: random.Random) -> bytes:
    k, n = rng.randrange(len(raw)), rng.randrange(1, 40)
    changed = raw[:k] + bytes([rng.randrange(256)]) + raw[k + 1 :]
    repeated = raw[:k] + raw[k : k + n] + raw[k:]
    inserted = raw[:k] + rng.choice([b'"', b"]", b"}", b",", b" "]) + raw[k:]
    return rng.choice([raw[:k], raw[k:], raw[:k] + raw[k + n :], changed, repeated, inserted])


def known_results(gt: dict[str, Any], results: list[Any]) -> tuple[dict[str, Any], list[Any]]:
    """What the reference understands: entries of known categories."""
    known = {c["id"] for c in gt["categories"]}
    return (
        {**gt, "annotations": [a for a in gt["annotations"] if a["category_id"] in known]},
        [r for r in results if r["category_id"] in known],
    )


def compare(gt: Any, results: Any, answer: cocoapi_hq.Results) -> None:
    for metric, scores in answer.tubes.items():
        expected = reference.evaluate(*known_results(gt, results), metric)
        for key, value in expected.items():
            assert math.isclose(scores.stats[key], value, abs_tol=1e-9), (metric, key)


def test_mutated_documents(tmp_path: Path) -> None:
    rng = random.Random(20221104)
    accepted = refused = 0
    for number in range(NUM_FILES):
        gt, results = random_set(number % 25, videos=2, frames=3, h=24, w=30)
        results = results[:5]
        mutate(results if rng.random() < 0.6 else gt, rng)
        sources: tuple[Any, Any] = (gt, results)
        if number % 2:
            sources = tmp_path / "gt.json", tmp_path / "results.json"
            for path, data in zip(sources, (gt, results), strict=True):
                path.write_text(json.dumps(data))
        try:
            answer = cocoapi_hq.evaluate(*sources, protocol="hq_ytvis")
        except ScoringError:
            refused += 1
        else:
            compare(gt, results, answer)
            accepted += 1
        check_annotations(copy.deepcopy(gt))  # the checker must survive everything
        check_results(copy.deepcopy(results), truth=copy.deepcopy(gt))
    assert refused > 60
    assert accepted > 60


@pytest.mark.parametrize("side", ["gt", "results"])
def test_mutated_bytes(tmp_path: Path, side: str, implementation: str) -> None:
    rng = random.Random(7)
    gt, results = random_set(4, videos=2, frames=3, h=24, w=30)
    paths = {"gt": tmp_path / "gt.json", "results": tmp_path / "results.json"}
    for name, data in (("gt", gt), ("results", results)):
        paths[name].write_text(json.dumps(data))
    raw = paths[side].read_bytes()
    accepted = 0
    for _ in range(300):
        paths[side].write_bytes(mutate_bytes(raw, rng))
        try:
            answer = cocoapi_hq.evaluate(paths["gt"], paths["results"], protocol="hq_ytvis")
        except ScoringError:
            continue
        accepted += 1
        loaded = [json.loads(paths[name].read_text()) for name in ("gt", "results")]
        compare(*loaded, answer)
    assert accepted > 3
