"""What is asked of ``vmt refine``."""

from __future__ import annotations

from pathlib import Path

from vmt.apps.refine.options import RefineOptions


def test_work_folders_of_earlier_versions_stay_valid(tmp_path: Path) -> None:
    options = RefineOptions(Path("a.json"), Path("b.json"), weights=str(tmp_path / "w.pt"))
    text = "RefineOptions(accept=0.65, window=1, steady=0, refiner='w.pt ')"
    assert options.stamp() == text


def test_the_log_lies_beside_the_output() -> None:
    options = RefineOptions(Path("a.json"), Path("out/b.json"))
    assert options.log_path == Path("out/b.json.changes.json")
