"""Same weights, same clip: what detectron2 gets from a network is what our engine gets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.plugins.detectron2.conftest import SIZE, reference
from tests.synthetic import moving_shapes, shape_clip
from vmt.data.catalog import load_dataset
from vmt.engine.evaluate import frames_of
from vmt.inference.predictor import PredictorOptions, VideoPredictor
from vmt.modeling.backbones.folding import fold_frozen_norms
from vmt.modeling.meta_arch.build import build_network
from vmt.modeling.registry import META_ARCHITECTURES
from vmt.utils.errors import CheckpointError, ConfigError

WITHOUT_DROPOUT = ("VMT.MODEL.SEQFORMER.DROPOUT", 0.0, "VMT.MODEL.REFINER.DROPOUT", 0.0)


def build(cfg: Any) -> tuple[Any, Any]:
    """Theirs from the registry, and ours with the same weights."""
    from detectron2.modeling import build_model

    from vmt.plugins.detectron2.datasets import label_space_of

    torch.manual_seed(0)
    theirs = build_model(cfg)
    ours = build_network(theirs.vmt_cfg, label_space_of(cfg))
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def clips(num_frames: int) -> list[dict[str, Any]]:
    samples = [shape_clip(num_frames, SIZE, seed) for seed in (0, 1)]
    return [{**clip, "image": clip["image"].to(torch.uint8)} for clip in samples]


def test_all_architectures_are_registered() -> None:
    from detectron2.modeling import META_ARCH_REGISTRY

    from vmt.plugins.detectron2.network import VideoNetwork

    names = [name for name, _ in META_ARCHITECTURES]
    assert {"VideoMaskTransfiner", "MaskRefiner", "MinVIS", "IDOL"} <= set(names)
    for name in names:
        assert META_ARCH_REGISTRY.get(name) is VideoNetwork


@pytest.mark.parametrize("colours", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("recipe", "num_frames"),
    [("seqformer_tiny", 2), ("vmt_tiny", 2), ("idol_tiny", 2), ("minvis_tiny", 1)],
)
def test_losses(
    recipe: str, num_frames: int, colours: str, make_config: Callable[..., Any]
) -> None:
    """``Instances`` in, in either order of colours."""
    from vmt.plugins.detectron2.instances import instances_of_clip

    theirs, ours = build(make_config(recipe, "INPUT.FORMAT", colours, *WITHOUT_DROPOUT))
    theirs.train()
    ours.train()
    samples = clips(num_frames)
    torch.manual_seed(1)  # some losses draw points
    expected = ours(samples)
    torch.manual_seed(1)
    given = theirs([instances_of_clip(clip, bgr=colours == "BGR") for clip in samples])
    assert list(given) == list(expected)
    for name, value in expected.items():
        assert torch.isfinite(value)
        torch.testing.assert_close(given[name], value, rtol=0, atol=1e-6)


def test_a_mask_refiner_learns_from_coarse_masks(
    make_config: Callable[..., Any], plugin: Any
) -> None:
    from tests.conftest import REPO
    from vmt.plugins.detectron2.instances import instances_of_clip

    cfg = make_config()
    plugin.merge_recipe(cfg, REPO / "configs/refine/mask_refiner_frames.yaml")
    cfg.MODEL.DEVICE = "cpu"
    theirs, ours = build(cfg)
    assert theirs.vmt_cfg.DATASETS.CLASS_MATCH == "any"
    samples = [{**clip, "coarse": clip["targets"].masks} for clip in clips(1)]
    for network in (theirs.train(), ours.train()):
        network.train()
    torch.manual_seed(1)
    expected = ours(samples)
    torch.manual_seed(1)
    given = theirs([instances_of_clip(clip, bgr=False) for clip in samples])
    assert list(given) == list(expected)
    assert all(torch.equal(given[name], expected[name]) for name in given)
    (tubes, _) = theirs.eval()([{**clip, "image": list(clip["image"])} for clip in samples])
    again = ours.eval().predict(samples[0])["tubes"]
    assert len(tubes["tubes"]) == len(again)
    assert all(
        torch.equal(a.probability, b.probability)
        for a, b in zip(tubes["tubes"], again, strict=True)
    )


@pytest.mark.parametrize("recipe", ["seqformer_tiny", "vmt_tiny", "idol_tiny", "minvis_tiny"])
def test_predictions(recipe: str, make_config: Callable[..., Any], videos: Any) -> None:
    """Every run length and score of a video of the test loader."""
    from vmt.plugins.detectron2 import Trainer

    cfg = make_config(recipe, "VMT.TEST.WINDOW", 3, "INPUT.FORMAT", "BGR")
    theirs, ours = build(cfg)
    for network in (theirs, ours):  # random weights find nothing that IDOL would keep
        for name, value in network.state_dict().items():
            if recipe.startswith("idol") and name.startswith("heads.cls.") and "bias" in name:
                value.fill_(0.5)
    (inputs,) = next(iter(Trainer.build_test_loader(cfg, cfg.DATASETS.TEST[0])))
    (given,) = theirs.eval()([inputs])
    record = load_dataset(reference(videos / "val"))[0]
    assert inputs["video_id"] == record.id
    options = PredictorOptions.from_config(theirs.vmt_cfg)
    assert options.window == 3
    stream = VideoPredictor(ours.eval(), options).stream(frames_of(record))
    expected = list(stream)
    assert list(given["frames"]) == expected
    assert list(given["tracks"]) == list(stream.finish())
    assert given["image_size"] == SIZE
    assert len(given["instances"]) == len(expected) == 4
    assert any(frame.tracks for frame in expected), "there is something to compare"
    shown = given["instances"][2]
    assert shown.pred_masks.sum().item() == sum(track.area for track in expected[2].tracks)


def test_images_of_detectron2s_own_predictor(
    make_config: Callable[..., Any], tmp_path: Any
) -> None:
    """BGR in, resized by detectron2, masks at the size of the original."""
    from detectron2.checkpoint import DetectionCheckpointer
    from detectron2.engine import DefaultPredictor

    cfg = make_config(
        "seqformer_tiny", "INPUT.MIN_SIZE_TEST", 48, "MODEL.WEIGHTS", "", *WITHOUT_DROPOUT
    )
    theirs, ours = build(cfg)
    DetectionCheckpointer(theirs, str(tmp_path)).save("weights")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    frame = moving_shapes(1, SIZE, 3).frames[0]
    given = DefaultPredictor(cfg)(np.ascontiguousarray(frame[:, :, ::-1]))["instances"]
    assert given.image_size == SIZE
    options = PredictorOptions.from_config(theirs.vmt_cfg)
    (expected,) = VideoPredictor(ours.eval(), options).stream([frame])
    assert given.track_ids.tolist() == [track.track_id for track in expected.tracks]
    assert given.pred_masks.shape[1:] == SIZE
    areas = [track.area for track in expected.tracks]
    assert given.pred_masks.flatten(1).sum(1).tolist() == areas
    assert sum(areas) > 0


def test_a_list_of_frames_at_network_size(make_config: Callable[..., Any]) -> None:
    theirs, _ = build(make_config())
    frames = torch.from_numpy(moving_shapes(3, SIZE, 3).frames).permute(0, 3, 1, 2)
    size = {"height": 2 * SIZE[0], "width": 2 * SIZE[1]}
    (given,) = theirs.eval()([{"image": list(frames), **size}])
    assert len(given["instances"]) == 3
    assert given["image_size"] == given["instances"][0].image_size == (128, 192)
    (as_floats,) = theirs([{"image": list(frames.float()), **size}])
    assert as_floats["frames"] == given["frames"]


def test_weights_have_our_names(make_config: Callable[..., Any]) -> None:
    theirs, ours = build(make_config())
    assert list(theirs.state_dict()) == list(ours.state_dict())
    assert theirs.device == ours.device


def test_frozen_parts_and_classes(make_config: Callable[..., Any]) -> None:
    theirs, _ = build(make_config("seqformer_tiny", "VMT.SOLVER.FREEZE", ["coarse."]))
    names = {name for name, p in theirs.network.named_parameters() if not p.requires_grad}
    assert {name.split(".")[0] for name in names} == {"coarse"}
    assert theirs.network.label_space.names == ("circle", "square", "triangle")


def test_our_backbones_under_their_heads(make_config: Callable[..., Any]) -> None:
    from detectron2.layers import ShapeSpec
    from detectron2.modeling import FPN
    from detectron2.modeling import build_backbone as build_theirs

    from vmt.modeling.backbones.build import build_backbone

    cfg = make_config("seqformer_tiny", "MODEL.BACKBONE.NAME", "build_vmt_backbone")
    torch.manual_seed(0)
    backbone = build_theirs(cfg)
    assert backbone.output_shape()["res5"] == ShapeSpec(channels=512, stride=32)
    images = torch.rand(1, 3, 64, 96)
    maps = backbone(images)
    for name, shape in backbone.output_shape().items():
        assert maps[name].shape == (1, shape.channels, 64 // shape.stride, 96 // shape.stride)
    from vmt.plugins.detectron2 import vmt_config

    ours = build_backbone(vmt_config(cfg))
    ours.load_state_dict(backbone.body.state_dict())
    assert torch.equal(ours(images)[16], maps["res4"])
    pyramid = FPN(backbone, ["res3", "res4", "res5"], 16)
    assert pyramid(images)["p4"].shape == (1, 16, 4, 6)


def test_the_predictor(plugin: Any, make_config: Callable[..., Any], tmp_path: Any) -> None:
    from vmt.plugins.detectron2.checkpointer import write_vmt_folder

    cfg = make_config("seqformer_tiny", "VMT.TEST.WINDOW", 2)
    theirs, ours = build(cfg)
    write_vmt_folder(theirs, tmp_path / "folder", "mine")
    cfg.MODEL.WEIGHTS = str(tmp_path / "folder/mine.safetensors")
    rgb = list(moving_shapes(4, SIZE, 3).frames)
    bgr = [np.ascontiguousarray(frame[:, :, ::-1]) for frame in rgb]
    predictor = plugin.DefaultPredictor(cfg)
    assert predictor.metadata.thing_classes == ["circle", "square", "triangle"]
    given = predictor(bgr)
    options = PredictorOptions.from_config(theirs.vmt_cfg)
    fold_frozen_norms(ours)
    expected = list(VideoPredictor(ours.eval(), options).stream(rgb))
    assert list(given["frames"]) == expected
    streamed = list(predictor.stream(iter(bgr)))
    assert len(streamed) == 4
    for one, other in zip(streamed, given["instances"], strict=True):
        assert torch.equal(one.pred_masks, other.pred_masks)
    assert list(predictor.stream(iter([]))) == []
    import vmt

    model = vmt.load_model(tmp_path / "folder/config.yaml", cfg.MODEL.WEIGHTS, device="cpu")
    assert list(vmt.VideoPredictor(model, options).stream(rgb)) == expected


def test_bad_input(plugin: Any, make_config: Callable[..., Any], tmp_path: Any) -> None:
    cfg = make_config("seqformer_tiny", "MODEL.META_ARCHITECTURE", "VideoMaskTransfinder")
    with pytest.raises(ConfigError, match=r"does not exist; did you mean VideoMaskTransfiner\?"):
        plugin.Trainer.build_model(cfg)
    cfg.MODEL.META_ARCHITECTURE = "GeneralizedRCNN"
    with pytest.raises(ConfigError, match="detectron2's or another project's"):
        plugin.Trainer.build_model(cfg)
    cfg = make_config("seqformer_tiny", "MODEL.WEIGHTS", str(tmp_path / "none.pth"))
    with pytest.raises(CheckpointError, match=r"none\.pth: no such weight file"):
        plugin.VideoPredictor(cfg)
    torch.save({"model": {"a": torch.ones(1)}}, tmp_path / "other.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match=r"other\.pth: does not fit the network"):
        plugin.VideoPredictor(cfg)
