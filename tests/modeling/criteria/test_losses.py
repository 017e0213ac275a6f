from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.modeling.criteria import slow_criteria as slow
from vmt.modeling.criteria.finite import NonFiniteError, check_finite, read_numbers
from vmt.modeling.criteria.losses import (
    box_l1_loss,
    class_loss,
    dice_loss,
    giou_loss,
    mask_focal_loss,
    sigmoid_focal_loss,
)


def masks_and_targets(N: int = 3, T: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(N, T, 4, 5, generator=generator, dtype=torch.float64) * 2
    targets = torch.rand(N, T, 4, 5, generator=generator) > 0.5
    targets[0] = False  # a tube without foreground
    return logits, targets


def boxes_and_targets(N: int = 3, T: int = 2, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    boxes, targets = torch.rand(2, N, T, 4, generator=generator, dtype=torch.float64) * 0.5 + 0.2
    targets[0, -1] = 1e-6  # absent
    return boxes, targets


@pytest.mark.parametrize(("alpha", "gamma"), [(0.25, 2.0), (0.9, 0.0), (0.5, 1.0)])
def test_focal_loss_matches_loops(alpha: float, gamma: float) -> None:
    logits, targets = masks_and_targets()
    actual = sigmoid_focal_loss(logits, targets, alpha, gamma).flatten().tolist()
    cells = zip(logits.flatten().tolist(), targets.flatten().tolist(), strict=True)
    expected = [slow.focal(logit, target, alpha, gamma) for logit, target in cells]
    assert actual == pytest.approx(expected, rel=1e-10)


def test_class_loss_matches_loops() -> None:
    logits = torch.randn(5, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    labels = torch.tensor([3, 0])
    actual = class_loss(logits, torch.tensor([1, 4]), labels[torch.tensor([1, 0])], 2.0)
    assert actual.item() == pytest.approx(slow.class_loss(logits, [(1, 1), (4, 0)], labels, 2.0))


@pytest.mark.parametrize("num_frames", [1, 3])
def test_mask_losses_match_loops(num_frames: int) -> None:
    logits, targets = masks_and_targets(T=num_frames)
    focal = mask_focal_loss(logits, targets, 2.5).item()
    assert focal == pytest.approx(slow.mask_focal_loss(logits, targets, 2.5))
    assert dice_loss(logits, targets, 2.5).item() == pytest.approx(
        slow.dice_loss(logits, targets, 2.5)
    )


def test_dice_inside_a_region_matches_loops() -> None:
    logits, targets = masks_and_targets()
    region = torch.rand(logits.shape, generator=torch.Generator().manual_seed(2)) > 0.4
    region[1] = False  # nothing counts: costs nothing
    actual = dice_loss(logits, targets, 1.0, region=region).item()
    assert actual == pytest.approx(slow.dice_loss(logits, targets, 1.0, region))
    assert dice_loss(logits[1:2], targets[1:2], 1.0, region=region[1:2]).item() == 0


@pytest.mark.parametrize("num_frames", [1, 4])
def test_box_losses_match_loops(num_frames: int) -> None:
    boxes, targets = boxes_and_targets(T=num_frames)
    l1, overlap = slow.box_losses(boxes, targets, 2.0)
    assert box_l1_loss(boxes, targets, 2.0).item() == pytest.approx(l1)
    assert giou_loss(boxes, targets, 2.0).item() == pytest.approx(overlap)


def test_gradients() -> None:
    logits, mask_targets = masks_and_targets(N=2, T=1)
    boxes, box_targets = boxes_and_targets()
    logits.requires_grad_()
    boxes.requires_grad_()
    check = torch.autograd.gradcheck
    assert check(lambda x: mask_focal_loss(x, mask_targets, 2.0), (logits,))
    assert check(lambda x: dice_loss(x, mask_targets, 2.0), (logits,))
    assert check(lambda x: box_l1_loss(x, box_targets, 2.0), (boxes,))
    assert check(lambda x: giou_loss(x, box_targets, 2.0), (boxes,))


def test_confident_logits_give_finite_losses_and_gradients() -> None:
    logits = torch.tensor([[[[80.0, -80.0], [80.0, -80.0]]]], requires_grad=True)
    targets = torch.tensor([[[[True, False], [False, True]]]])
    (mask_focal_loss(logits, targets, 1.0) + dice_loss(logits, targets, 1.0)).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_inputs_are_raised_to_fp32_under_autocast(half: torch.dtype) -> None:
    logits, targets = masks_and_targets()
    logits = logits.to(half)
    boxes, box_targets = (x.to(half) for x in boxes_and_targets())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual = [
            mask_focal_loss(logits, targets, 2.0),
            dice_loss(logits, targets, 2.0),
            giou_loss(boxes, box_targets, 2.0),
            box_l1_loss(boxes=boxes, targets=box_targets, num_tracklets=2.0),
        ]
    expected = [
        mask_focal_loss(logits.float(), targets, 2.0),
        dice_loss(logits.float(), targets, 2.0),
        giou_loss(boxes.float(), box_targets.float(), 2.0),
        box_l1_loss(boxes.float(), box_targets.float(), 2.0),
    ]
    assert all(loss.dtype == torch.float32 for loss in actual)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_guard_names_loss_step_and_clips() -> None:
    fine = {"loss_ce": torch.tensor(1.0), "loss_dice": torch.tensor(0.5)}
    numbers = read_numbers(fine)
    assert numbers == {"loss_ce": 1.0, "loss_dice": 0.5}
    check_finite(numbers, ["video a"], 0)
    check_finite(read_numbers({}), [], 0)
    broken = fine | {"loss_mask_3": torch.tensor(torch.nan), "loss_giou": torch.tensor(torch.inf)}
    with pytest.raises(NonFiniteError) as error:
        check_finite(read_numbers(broken), ["video a, clip 0-4", "video b, clip 9"], step=12)
    message = str(error.value)
    assert message.startswith("loss_mask_3 = nan, loss_giou = inf at step 12;")
    assert "video a, clip 0-4; video b, clip 9" in message
    assert "loss_ce" not in message
