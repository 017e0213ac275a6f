"""The classes a network knows: contiguous labels from 0, and the category ids of the JSON files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_YTVIS_2019: Final = (
    "person giant_panda lizard parrot skateboard sedan ape dog snake monkey hand rabbit duck cat "
    "cow fish train horse turtle bear motorbike giraffe leopard fox deer owl surfboard airplane "
    "truck zebra tiger elephant snowboard boat shark mouse frog eagle earless_seal tennis_racket"
)
#: Classes of YouTube-VIS 2019 in the order of their category ids, which count from 1.
YTVIS_2019: Final = tuple(_YTVIS_2019.split())
#: Rows of the class heads in the published files of SeqFormer and VMT: row = category id, so the
#: first and the last are predicted but stand for nothing.
PUBLISHED_ROWS: Final = ("unused_0", *YTVIS_2019, "unused_41")


def normalise_name(name: str) -> str:
    """Spelling that decides whether two class names are the same: ``Giant panda`` = giant_panda."""
    return "_".join(name.casefold().replace("_", " ").replace("-", " ").split())


@dataclass(frozen=True)
class LabelSpace:
    """Names and category ids by label; only loaders and result writers convert between them.

    Args:
        name: how configs call it (``MODEL.LABEL_SPACE``).
        names: class names, one per label.
        category_ids: ids of the annotation files, one per label.

    Raises:
        ValueError: the two lists differ in length, or an id stands twice.
    """

    name: str
    names: tuple[str, ...]
    category_ids: tuple[int, ...]

    def __post_init__(self) -> None:
        if len(self.names) != len(self.category_ids):
            raise ValueError(
                f"label space {self.name!r}: {len(self.names)} names "
                f"for {len(self.category_ids)} category ids; give one name per id."
            )
        if len(set(self.category_ids)) != len(self.category_ids):
            raise ValueError(f"label space {self.name!r}: a category id stands twice.")

    def __len__(self) -> int:
        return len(self.names)

    def label_of(self, category_id: int) -> int:
        """Label of a category id; KeyError when the space lacks it."""
        try:
            return self.category_ids.index(category_id)
        except ValueError:
            raise KeyError(category_id) from None
