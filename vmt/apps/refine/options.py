"""What is asked of ``vmt refine``; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vmt.data.names import read_void
from vmt.inference.refine_defaults import ACCEPT, SHIPPED, WINDOW, weights_path
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class RefineOptions:
    """One call, by the names of the options of ``vmt refine``; its help explains them.

    Args:
        window: frames refined together, for networks trained on clips; no option of the command.

    Raises:
        ConfigError: a value out of range.
    """

    masks: Path
    output: Path
    images: Path | None = None
    video: Path | None = None
    accept: float = ACCEPT
    window: int = WINDOW
    propagate: bool = False
    report: Path | None = None
    log: Path | None = None
    confidence: Path | None = None
    weights: str = SHIPPED
    device: str = "auto"
    annotations: Path | None = None
    mask_key: str = "segmentations"
    min_score: float = 0.0
    void: str | None = None
    first_number: int | None = None
    skip_bad: bool = False

    def __post_init__(self) -> None:
        read_void(self.void)
        if not 0.5 <= self.accept < 1:
            raise ConfigError(f"--accept {self.accept}: give a confidence from 0.5 to below 1.")
        if self.confidence is not None and self.propagate:
            raise ConfigError(
                f"--confidence {self.confidence} and --propagate: maps are of masks that are "
                "given; propagate first, then refine the output with --confidence."
            )
        if self.first_number is not None and (self.video is None or self.first_number < 0):
            raise ConfigError(
                f"--first-number {self.first_number}: give a number from 0 on, for masks of a "
                "--video file."
            )

    @property
    def log_path(self) -> Path:
        """The change log."""
        return self.log or self.output.with_name(f"{self.output.name}.changes.json")

    def stamp(self) -> str:
        """Differs when masks come out otherwise, or maps of confidence elsewhere."""
        weights = weights_path(self.weights)
        status = weights.stat() if weights.is_file() else None
        made = f"{status.st_size} {status.st_mtime_ns}" if status is not None else ""
        maps = f", confidence='{self.confidence.absolute()}'" if self.confidence else ""
        more = ", propagate=True" if self.propagate else ""
        return (
            f"RefineOptions(accept={self.accept}, window={self.window}, "
            f"refiner='{weights.name} {made}'{maps}{more})"
        )
