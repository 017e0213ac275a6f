"""The rules of a video that is one window, by hand on small cases."""

import pytest

from tests.inference.association.test_windows import clip, stripes
from vmt.inference.association.whole_video import WholeVideoAssociation


def test_whole_video_keeps_the_best_pairs() -> None:
    probs = [[0.5, 0.4], [0.001, 0.002], [0.3, 0.6]]
    association = WholeVideoAssociation(top_k=3)
    association.add(0, clip(stripes([0, 2, 4], 2), probs))
    frames, summaries = association.pop_frames(2), association.pop_closed()
    assert [(s.track_id, [(c.label, round(c.score, 4)) for c in s.classes]) for s in summaries] == [
        (1, [(0, 0.5), (1, 0.4)]),
        (2, [(1, 0.6)]),
    ]
    assert [f.labels for f in frames] == [(0, 1)] * 2
    assert [int(mask[0].argmax()) for mask in frames[0].logits] == [0, 4]


@pytest.mark.parametrize("top_k", [1, 100])
def test_whole_video_top_k_bounds(top_k: int) -> None:
    association = WholeVideoAssociation(top_k)
    association.add(0, clip(stripes([0, 2], 2), [[0.5, 0.4], [0.3, 0.2]]))
    assert sum(len(s.classes) for s in association.pop_closed()) == min(top_k, 4)
    assert (association.pop_closed(), len(association.pop_frames(2))) == ([], 2)
    assert association.pop_frames(2) == []
