"""Imported before everything else of the plug-in: is there a detectron2, and new enough?"""

from __future__ import annotations

from vmt.utils.errors import ConfigError, VmtError


class Detectron2MissingError(VmtError, ImportError):
    """There is no detectron2 here."""


try:
    import detectron2
except ImportError as error:
    raise Detectron2MissingError(
        f"vmt.plugins.detectron2 needs detectron2, which cannot be imported here ({error}); "
        "docs/howto/detectron2.md says how to install it."
    ) from None

#: The first version with everything that the plug-in calls.
OLDEST = (0, 6)


def check_version(version: str) -> None:
    """Refuse a detectron2 that lacks what the plug-in calls.

    Args:
        version: as ``detectron2.__version__`` spells it.

    Raises:
        ConfigError: it is too old.
    """
    numbers = [int(part) for part in version.split("+")[0].split(".")[:2] if part.isdigit()]
    if tuple(numbers) < OLDEST:
        raise ConfigError(
            f"detectron2 {version} is too old for vmt.plugins.detectron2; install "
            f"{'.'.join(map(str, OLDEST))} or newer from its source, see docs/howto/detectron2.md."
        )


check_version(getattr(detectron2, "__version__", "0"))
