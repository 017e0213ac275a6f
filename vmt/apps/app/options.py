"""What a user may ask of ``vmt app``; light, so that the console can show it at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vmt.inference.package_detector import missing_weights, ships
from vmt.inference.refine_defaults import SHIPPED
from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class AppOptions:
    """Options of ``vmt app``, under their own names.

    Args:
        config_file: YAML of a network that finds objects; None: that of the package, if it is
            there.
        weights: its weight file; None: ``MODEL.WEIGHTS``.
        refiner: weights of the mask refiner, a name of the package or a file.
        device: of both networks; None: ``MODEL.DEVICE``, and "auto" for the refiner.
        host: address that is listened on; 127.0.0.1 is this machine alone.
        port: TCP port; 0: any that is free.
        videos: folder whose videos visitors may pick; None: they upload.
        max_upload_mb: largest video that is taken, in MB (10^6 bytes).
        max_frames: longest video that is taken, in frames.
        keep_minutes: after which an idle visitor's files are removed.
        overrides: alternating ``KEY VALUE``, for the network that finds objects.

    Raises:
        ConfigError: a value out of range, weights without a config, or keys without a network.
    """

    config_file: str | None = None
    weights: str | None = None
    refiner: str = SHIPPED
    device: str | None = None
    host: str = "127.0.0.1"
    port: int = 7860
    videos: Path | None = None
    max_upload_mb: int = 200
    max_frames: int = 3000
    keep_minutes: int = 60
    overrides: Sequence[str] = ()

    @property
    def finds(self) -> bool:
        """Whether there is a network that finds objects."""
        return self.config_file is not None or ships()

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536:
            raise ConfigError(f"--port {self.port}: give a number from 0 (any free) to 65535.")
        limits = ("max_upload_mb", "max_frames", "keep_minutes")
        for name in limits:
            if getattr(self, name) < 1:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} {getattr(self, name)}: give at least 1.")
        if self.config_file is None and self.weights is not None:
            raise ConfigError(
                "--weights are of a network that finds objects: name it with --config-file."
            )
        if not self.finds and self.overrides:
            raise ConfigError(f"{' '.join(self.overrides)}: of which network? {missing_weights()}.")
        if self.videos is not None and not self.videos.is_dir():
            raise ConfigError(f"--videos {self.videos}: no such folder.")
