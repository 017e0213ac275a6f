"""Errors a user can cause. Each message names the file, key or value, the cause and the fix.

The console (``vmt.cli.main``) prints them as one line and exits with status 2; anything else is
our own fault and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cocoapi_hq.exceptions import ScoringError


class VmtError(Exception):
    """Base of everything a user can cause and mend."""


class ConfigError(VmtError, ValueError):
    """A config file, key or value is wrong."""


class AnnotationError(VmtError, ValueError):
    """An annotation or result file breaks its format."""


class VideoError(VmtError, ValueError):
    """A video, frame folder or image cannot be read as asked."""


class CheckpointError(VmtError, ValueError):
    """A weight file is unreadable, unsafe, or belongs to another network."""


class OutputError(VmtError, OSError):
    """A result could not be written; what was finished before is still valid."""


class OpError(VmtError, ValueError):
    """An operator was called with wrong shapes, types or devices, or a back end that is absent."""


#: What a user can cause and mend: ours, and those of the scoring package.
USER_ERRORS = (VmtError, ScoringError)


@contextmanager
def scoring_errors(
    kind: type[VmtError] = AnnotationError, path: Path | None = None
) -> Iterator[None]:
    """Raise errors of the scoring package as one of ours; also a decorator.

    Args:
        kind: of the error.
        path: a file whose name the message shall start with.
    """
    try:
        yield
    except ScoringError as error:
        text = str(error)
        if path is not None:
            text = f"{path}: {text.removeprefix(f'{path}: ').removeprefix(f'{path.name}: ')}"
        raise kind(text) from None
