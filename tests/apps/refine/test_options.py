"""What is asked of ``vmt refine``."""

from __future__ import annotations

from pathlib import Path

from vmt.apps.refine.options import RefineOptions


def test_a_stamp_has_what_masks_depend_on_and_no_more(tmp_path: Path) -> None:
    def stamp(**more: object) -> str:
        weights = str(tmp_path / "w.pt")
        asked = {"accept": 0.65, "weights": weights, **more}
        return RefineOptions(Path("a.json"), Path("b.json"), **asked).stamp()  # type: ignore[arg-type]

    assert stamp() == "RefineOptions(accept=0.65, window=1, refiner='w.pt ')"
    others = {"accept": 0.7, "window": 3, "propagate": True, "confidence": tmp_path / "maps"}
    stamps = {stamp(**{name: value}) for name, value in others.items()}
    (tmp_path / "w.pt").write_text("trained")
    assert len(stamps | {stamp()}) == len(others) + 1
    (tmp_path / "w.pt").unlink()
    assert stamp(report=tmp_path / "r.html", device="cpu", min_score=0.5) == stamp()


def test_the_log_lies_beside_the_output() -> None:
    options = RefineOptions(Path("a.json"), Path("out/b.json"))
    assert options.log_path == Path("out/b.json.changes.json")
