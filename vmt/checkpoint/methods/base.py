"""What a method says of its published weight files, and of files with its names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

NOT_STATED: Final = "not stated"
#: Names of backbones in names of configs -> in sentences.
BACKBONES: Final = {"R50": "ResNet-50", "R101": "ResNet-101", "SwinL": "Swin-L"}
#: Numbers of the evaluation servers of YouTube-VIS and OVIS.
TUBE_NUMBERS: Final = ("AP", "AP_50", "AP_75", "AR_1", "AR_10")

#: Name of a parameter, as ours -> its shape.
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class ZooFile:
    """One published weight file.

    Args:
        name: what ``vmt zoo --download`` calls it.
        about: network, backbone, training data.
        file_name: its name on disk.
        config: our YAML file for it.
        page: web page of its authors, where a person can download it.
        url: direct link; None where we know the page only.
        evaluated_on: data set of ``expected``.
        expected: published metrics in percent, by name.
        licence: of the weights, as far as their authors say.
        sha256: published checksum; None where there is none.
        starts: backbone whose trainings start from it; empty: none.
        architecture: the one whose trainings do; empty: SeqFormer and what stands on it.
    """

    name: str
    about: str
    file_name: str
    config: str
    page: str
    url: str | None
    evaluated_on: str
    expected: Mapping[str, float] = field(default_factory=dict)
    licence: str = NOT_STATED
    sha256: str | None = None
    starts: str = ""
    architecture: str = ""


@dataclass(frozen=True)
class Recognised:
    """What a method sees in the names and shapes of a file.

    Args:
        method: as a sentence calls it.
        config: a YAML that builds the network, or "".
        head: the parameter whose rows count the classes; "": none.
        more_rows: of ``head`` than there are classes.
        family: networks of one family may start from one another's files; "": ``method`` is it.
    """

    method: str
    config: str
    head: str = ""
    more_rows: int = 0
    family: str = ""

    def suits(self, other: Recognised) -> bool:
        """Whether a network may start from a file, this one's: families, or its frame model."""
        mine, theirs = self.family or self.method, other.family or other.method
        return mine == theirs or mine.endswith(f" on {theirs}")


@dataclass(frozen=True)
class Method:
    """A method in ``vmt zoo`` and ``vmt inspect``.

    Args:
        place: in the list of ``vmt zoo``.
        files: its published files; those without a direct link too.
        recognise: of our names, and the name of the backbone in names of configs or "", what the
            file holds; None if it is none of the method's.
    """

    place: int
    files: tuple[ZooFile, ...]
    recognise: Callable[[Shapes, str], Recognised | None]


def drive(file_id: str) -> tuple[str, str]:
    """Page and direct link of a file on Google Drive; ``confirm`` skips the virus-scan page."""
    return (
        f"https://drive.google.com/file/d/{file_id}/view",
        f"https://drive.usercontent.google.com/download?id={file_id}&export=download&confirm=t",
    )


def tube_scores(scores: tuple[float, ...]) -> dict[str, float]:
    """Numbers by name, in the order of ``TUBE_NUMBERS``."""
    return dict(zip(TUBE_NUMBERS, scores, strict=True))
