"""A network that needs no training: bright coloured blobs are its objects.

It keeps to the interface of the real ones (``segment_clip`` -> ``ClipTracklets``), so that
everything around a network can be tested quickly and looked at with sensible masks.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vmt.modeling.temporal.tar import TAR, TAROptions
from vmt.modeling.video_model import (
    FrameModel,
    FrameOutputs,
    ModelOptions,
    RefiningModel,
    TrackRefiner,
)
from vmt.structures.labels import LabelSpace
from vmt.structures.predictions import ClipTracklets
from vmt.structures.track_window import FrameMaps, TrackWindow

#: RGB that the three classes are made of.
COLOURS = {"red": (255.0, 0.0, 0.0), "green": (0.0, 255.0, 0.0), "blue": (0.0, 0.0, 255.0)}
LABELS = LabelSpace("blobs", tuple(COLOURS), (10, 20, 30))


class BlobModel(nn.Module):
    """Finds at most one blob per colour: pixels nearer to the colour than ``radius``.

    Args:
        mask_stride: input pixels per cell of the masks it gives, 2 or 8.
        noise_queries: queries without an object, of low score.
        radius: distance in RGB below which a pixel belongs to the colour.
        confidence: score of a colour that is there.
    """

    def __init__(
        self,
        mask_stride: int = 2,
        noise_queries: int = 1,
        radius: float = 160.0,
        confidence: float = 0.9,
    ) -> None:
        super().__init__()
        self.label_space = LABELS
        self.mask_stride = mask_stride
        self.noise_queries = noise_queries
        self.radius = radius
        self.confidence = confidence
        self.clips: list[int] = []  # T of every call
        self.register_buffer("colours", torch.tensor(list(COLOURS.values())))

    @property
    def device(self) -> torch.device:
        return self.colours.device

    def left_undone(self) -> str:
        return ""

    def segment_clip(self, frames: Tensor) -> ClipTracklets:
        T, _, H, W = frames.shape
        self.clips.append(T)
        stride = self.mask_stride
        h, w = -(-H // stride), -(-W // stride)
        padded = F.pad(frames.float(), (0, w * stride - W, 0, h * stride - H), mode="replicate")
        cells = F.avg_pool2d(padded, stride)  # (T, 3, h, w)
        distance = (cells[None] - self.colours[:, None, :, None, None]).norm(dim=2)
        logits = (self.radius - distance) / 20.0  # (3, T, h, w)
        present = (logits > 0).flatten(1).any(dim=1).cpu()
        noise = torch.full((self.noise_queries, T, h, w), -5.0, device=frames.device)
        probs = torch.full((3 + self.noise_queries, 3), 0.01)
        probs[:3] += torch.eye(3) * self.confidence
        chosen = torch.cat([present.nonzero()[:, 0], torch.arange(3, len(probs))])
        return ClipTracklets(
            query_index=chosen,
            class_probs=probs[chosen].to(frames.device),
            embeddings=torch.eye(len(probs), 8)[chosen].to(frames.device),
            boxes_cxcywh=torch.full((len(chosen), T, 4), 0.5, device=frames.device),
            mask_logits=torch.cat([logits[present.to(frames.device)], noise]),
            mask_stride=stride,
            input_size=(H, W),
        )


class BlobFrameModel(FrameModel):
    """The same for a network for frames: a query per colour, in an order that changes.

    Args:
        association: what it is "published" with.
    """

    STRIDE = 4

    def __init__(self, association: str = "bisoftmax") -> None:
        super().__init__(ModelOptions(LABELS))
        self.association = association
        self.frames_seen = 0
        self.calls: list[int] = []  # T of every call
        self.register_buffer("colours", torch.tensor(list(COLOURS.values())))

    @classmethod
    def from_config(cls, cfg, label_space) -> BlobFrameModel:
        return cls()

    def losses(self, batch, adversary=None) -> dict[str, Tensor]:
        raise NotImplementedError

    def class_head(self, embeds: Tensor) -> Tensor:
        raise NotImplementedError

    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        raise NotImplementedError

    def segment_frames(self, frames: Tensor) -> list[FrameOutputs]:
        self.calls.append(len(frames))
        return [self.segment_frame(frame) for frame in frames]

    def segment_frame(self, frame: Tensor) -> FrameOutputs:
        _, H, W = frame.shape
        h, w = -(-H // 32) * 32 // self.STRIDE, -(-W // 32) * 32 // self.STRIDE
        padded = F.pad(frame.float(), (0, w * self.STRIDE - W, 0, h * self.STRIDE - H))
        cells = F.avg_pool2d(padded, self.STRIDE)  # (3, h, w)
        masks = (160.0 - (cells - self.colours[:, :, None, None]).norm(dim=1)) / 20.0
        present = (masks > 0).flatten(1).any(1)
        logits = torch.full((3, 3), -4.0)
        logits[present] += 6.0 * torch.eye(3)[present]
        order = torch.arange(3).roll(self.frames_seen)
        self.frames_seen += 1
        softmax = self.association == "embedding_hungarian"
        return FrameOutputs(
            logits=F.pad(logits, (0, 1))[order] if softmax else logits[order],
            boxes_cxcywh=None if softmax else torch.eye(3, 4)[order],
            mask_logits=masks[order],
            embeddings=4 * torch.eye(3, 8)[order],
            mask_stride=self.STRIDE,
            input_size=(H, W),
            query=self.frames_seen + torch.eye(3, 8)[order],
            no_object=softmax,
            maps=None if self.refiner is None else frame_maps(padded),
        )


def frame_maps(frame: Tensor) -> FrameMaps:
    """(3, H, W) as maps of every stride."""
    return FrameMaps(frame, F.avg_pool2d(frame, 4), None, F.avg_pool2d(frame, 8))


class FullColourRefiner(TrackRefiner):
    """Masks of stride 2 that are the coarse ones, doubled and twice as sure."""

    def __init__(self) -> None:
        super().__init__()
        self.windows: list[TrackWindow] = []  # of every call

    def sharpen(self, window: TrackWindow) -> tuple[Tensor, int]:
        self.windows.append(window)
        masks = F.interpolate(window.mask_logits, scale_factor=2, mode="bilinear")
        return 2 * masks, window.mask_stride // 2

    def points_left_out(self) -> str:
        return ""


class BlobRefiningModel(BlobFrameModel, RefiningModel):
    """The same with TAR: an embedding says which colour it is, if that is in the frame.

    Args:
        window: W.
        random: TAR has random weights in place of the first ones, which change nothing.
    """

    def __init__(self, window: int = 4, *, random: bool = False) -> None:
        super().__init__("refinevis")
        self.window = window
        self.tar = small_tar(window, random=random)

    def class_head(self, embeds: Tensor) -> Tensor:
        return 6 * embeds[..., :3] - 4

    def mask_head(self, embeds: Tensor, pixel: Tensor, refs: Tensor | None) -> Tensor:
        return torch.einsum("qc,chw->qhw", embeds[:, :3], pixel)

    def refine(self, embeds: Tensor, times: Tensor, readable: Tensor, last_only: bool) -> Tensor:
        return self.tar(embeds, times, readable, last_only)

    def segment_frame(self, frame: Tensor) -> FrameOutputs:
        out = super().segment_frame(frame)
        order = out.embeddings.argmax(1)
        present = out.logits.amax(1, keepdim=True) > 0
        pixel = out.masks(order.argsort())
        query = torch.eye(3, 8)[order] * present
        head = self.in_precision(self.mask_head)
        return replace(out, mask_logits=head, query=query, pixel=pixel)


def small_tar(window: int, *, random: bool) -> TAR:
    """Of 8 channels."""
    torch.manual_seed(0)
    tar = TAR(TAROptions(8, 2, 16, window)).eval()
    if random:
        for parameter in tar.parameters():
            nn.init.normal_(parameter, std=0.3)
    return tar


def blob_video(num_frames: int, size: tuple[int, int] = (96, 160), blobs: int = 2) -> list[Tensor]:
    """Frames (H, W, 3) uint8 on a grey ramp with blobs that move by two pixels per frame."""
    height, width = size
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    frames = []
    for t in range(num_frames):
        frame = ((x * 60 // max(width, 1)) + 90)[..., None].repeat(1, 1, 3).to(torch.uint8)
        for k, colour in enumerate(list(COLOURS.values())[:blobs]):
            centre_x = (2 * t + k * width // 2) % width
            centre_y = height * (k + 1) // (blobs + 1)
            radius = height // (3 + k)
            inside = (x - centre_x) ** 2 + (y - centre_y) ** 2 < radius**2
            frame[inside] = torch.tensor(colour).to(torch.uint8)
        frames.append(frame)
    return frames
