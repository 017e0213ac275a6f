"""MS-STS's parts of encoder and decoder: against slow loops, sizes, symmetries, gates at zero."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from tests.engine.clips import SHAPES, make_trainer, quick_config
from tests.modeling.reference_msts import split_attention
from tests.published_weights import published_state
from vmt.checkpoint.describe import describe
from vmt.checkpoint.files import read_weights, write_weights
from vmt.checkpoint.key_maps.released import RELEASED
from vmt.checkpoint.load import load_weights
from vmt.engine.optimizer import build_optimizer
from vmt.layers.deformable_encoder import Levels
from vmt.modeling.meta_arch.build import build_model
from vmt.modeling.msts import attention as msts_attention
from vmt.modeling.msts.attention import PRESETS, Widths
from vmt.modeling.msts.decoder import TemporalAttention
from vmt.modeling.msts.discriminator import Discriminator
from vmt.modeling.msts.encoder import SplitAttention
from vmt.utils.errors import CheckpointError, ConfigError

SMALL = ("MODEL.SEQFORMER.HIDDEN_DIM", "32", "MODEL.SEQFORMER.NUM_QUERIES", "6")
SHAPES_HW = ((5, 7), (3, 4), (2, 2), (1, 1))
TOKENS = sum(h * w for h, w in SHAPES_HW)


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def layout(batch: int, padding: Tensor | None = None) -> Levels:
    return Levels(SHAPES_HW, torch.ones(batch, len(SHAPES_HW), 2), padding)


def open_branch(dim: int = 16) -> SplitAttention:
    """A small one whose gate is open."""
    torch.manual_seed(0)
    branch = SplitAttention(dim, Widths(8, 12, False), 2, 0.1)
    for parameter in branch.parameters():
        if parameter.ndim == 1:
            nn.init.normal_(parameter, 0.5, 0.5)
    return branch.eval()


def tokens(frames: int, dim: int = 16, seed: int = 1) -> Tensor:
    return torch.randn(frames, TOKENS, dim, generator=torch.Generator().manual_seed(seed))


# --- sizes -------------------------------------------------------------------------------------


def test_parameter_counts() -> None:
    for name, encoder, decoder in (("lean", 174_208, 66_304), ("full", 1_775_104, 263_680)):
        widths = PRESETS[name]
        assert count(SplitAttention(256, widths)) == encoder
        mixer = TemporalAttention(256, widths.dim, bias=widths.mixer_bias)
        assert count(mixer) - mixer.gate.numel() == decoder
    assert count(Discriminator(256)) == 2_891_008


def test_the_network_grows_by_the_additions_alone(config_of) -> None:
    sizes = []
    for name in ("ytvis_2019/seqformer_R50", "ytvis_2019/msts_R50"):
        model = build_model(*config_of(name))
        sizes.append(count(model))
        mixers = [layer.mixer for layer in model.decoder.layers]
        assert not any("discriminator" in n or "adversary" in n for n in model.state_dict())
    assert sizes[1] - sizes[0] == 6 * 174_208 + 5 * (66_304 + 256)
    assert mixers[0] is None


# --- numbers -----------------------------------------------------------------------------------


@torch.no_grad()
def test_equals_loops_over_levels_positions_frames() -> None:
    branch = open_branch().double()
    x = tokens(3).double()
    expected = split_attention(branch, x, SHAPES_HW)
    torch.testing.assert_close(branch(x, layout(3), 3), expected, atol=1e-9, rtol=1e-9)
    single = branch.float()(x.float(), layout(3), 3)
    torch.testing.assert_close(single, expected.float(), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_decoder_attention_equals_loops() -> None:
    torch.manual_seed(0)
    mixer = TemporalAttention(16, 8, 2).double().eval()
    nn.init.normal_(mixer.gate)
    box_query = torch.randn(2, 3, 4, 16, dtype=torch.float64)
    expected = torch.empty_like(box_query)
    for b, query in itertools.product(range(2), range(4)):
        n = [mixer.norm(box_query[b, t, query]) for t in range(3)]
        for t in range(3):
            parts = []
            for head in range(2):
                rows = slice(4 * head, 4 * head + 4)
                q, k, v = zip(*(mixer.qkv(token).split(8) for token in n), strict=True)
                weights = torch.stack([q[t][rows] @ key[rows] / 2.0 for key in k]).softmax(0)
                parts.append(sum(w * value[rows] for w, value in zip(weights, v, strict=True)))
            mixed = mixer.out(torch.cat(parts))
            expected[b, t, query] = box_query[b, t, query] + mixer.gate * mixed
    torch.testing.assert_close(mixer(box_query), expected, atol=1e-9, rtol=1e-9)


def test_positions_in_parts_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    branch, x = open_branch(), tokens(6)
    with torch.no_grad():
        whole = branch(x, layout(6), 3)
        monkeypatch.setattr(msts_attention, "MAX_TOKENS", 24)
        torch.testing.assert_close(branch(x, layout(6), 3), whole, atol=1e-6, rtol=1e-6)


# --- symmetries --------------------------------------------------------------------------------


def test_no_attention_has_more_sequences_than_a_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(3)
    tokens = torch.randn(2, 3, 25, 8, generator=generator, dtype=torch.float64, requires_grad=True)

    def run() -> tuple[Tensor, Tensor]:
        out = msts_attention.attend_frames(tokens, tokens, tokens, 2)
        return out, torch.autograd.grad(out.square().sum(), tokens)[0]

    sizes: list[int] = []
    fused = torch.nn.functional.scaled_dot_product_attention

    def counted(*heads: Tensor) -> Tensor:
        sizes.append(len(heads[0]))
        return fused(*heads)

    monkeypatch.setattr(msts_attention.F, "scaled_dot_product_attention", counted)
    expected = run()
    assert sizes == [50]
    assert msts_attention.MAX_SEQUENCES < 2**16
    monkeypatch.setattr(msts_attention, "MAX_SEQUENCES", 12)
    for one, other in zip(run(), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)
    assert sizes[1:] == [12, 12, 12, 12, 2]


@pytest.mark.parametrize("frames", [1, 3, 5, 12])
@torch.no_grad()
def test_any_number_of_frames_in_any_order(frames: int) -> None:
    branch = open_branch()
    x = tokens(frames)
    out = branch(x, layout(frames), frames)
    assert out.shape == x.shape
    assert torch.isfinite(out).all()
    order = torch.randperm(frames, generator=torch.Generator().manual_seed(2))
    permuted = branch(x[order], layout(frames), frames)
    torch.testing.assert_close(permuted, out[order], atol=1e-5, rtol=1e-5)
    mixer = TemporalAttention(16, 8, 2).eval()
    nn.init.ones_(mixer.gate)
    box_query = torch.randn(1, frames, 4, 16)
    torch.testing.assert_close(
        mixer(box_query[:, order]), mixer(box_query)[:, order], atol=1e-5, rtol=1e-5
    )


@torch.no_grad()
def test_clips_of_a_batch_do_not_meet() -> None:
    branch = open_branch()
    x = tokens(6)
    together = branch(x, layout(6), 3)
    for rows in (slice(0, 3), slice(3, 6)):
        torch.testing.assert_close(branch(x[rows], layout(3), 3), together[rows])


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    branch = open_branch()
    maps = [torch.zeros(2, h, w, dtype=torch.bool) for h, w in SHAPES_HW]
    for level in maps[:3]:
        level[:, :, -level.shape[-1] // 3 :] = True
        level[:, -level.shape[-2] // 3 :] = True
    padding = torch.cat([m.flatten(1) for m in maps], dim=1)
    x = tokens(2)
    before = branch(x, layout(2, padding), 2)
    other = torch.where(padding[..., None], 77.0, x)
    after = branch(other, layout(2, padding), 2)
    assert torch.equal(before, after)
    assert (before[padding] == 0).all()
    # the rule has work to do: without it, what stands in the padding leaks through the resize
    leaky = branch(other, layout(2), 2)[~padding] - branch(x, layout(2), 2)[~padding]
    assert leaky.abs().max() > 1e-3


@torch.no_grad()
def test_padding_of_the_coarser_level_is_zero_before_it_is_resized() -> None:
    branch, shown = open_branch(), []
    branch.inter.partner.register_forward_pre_hook(lambda _, args: shown.append(args[0]))
    padding = torch.zeros(2, TOKENS, dtype=torch.bool)
    starts = list(itertools.accumulate(h * w for h, w in SHAPES_HW))
    padding[:, starts[0] + 8 : starts[1]] = True  # most of level 1
    branch(tokens(2), layout(2, padding), 2)
    assert shown[0].shape == (1, 2, 12, 16)
    assert (shown[0][:, :, 8:] == 0).all()
    assert (shown[0][:, :, :8] != 0).all()


@torch.no_grad()
def test_what_a_position_reads() -> None:
    """Its own level and the next coarser one at its place; the coarsest level itself alone."""
    starts = [0, *itertools.accumulate(h * w for h, w in SHAPES_HW)]
    for changed in range(len(SHAPES_HW)):
        x = tokens(2)
        moved = x.clone()
        moved[0, starts[changed]] += 1.0  # the first cell of that level
        branch = open_branch()
        difference = (branch(moved, layout(2), 2) - branch(x, layout(2), 2)).abs().amax(-1)
        hit = [bool(difference[:, a:b].max() > 0) for a, b in itertools.pairwise(starts)]
        reached = {changed, max(changed - 1, 0)}
        assert {level for level, yes in enumerate(hit) if yes} == reached
        own = difference[:, starts[changed] : starts[changed + 1]]
        assert (own[:, 0] > 0).all()  # both frames read the one that changed
        assert (own[:, 1:] == 0).all()


# --- in the network ----------------------------------------------------------------------------


def pair(*overrides: str, name: str = "seqformer_tiny") -> list:
    """SeqFormer, and the same weights with closed gates added."""
    base = build_model(quick_config(name, *SMALL, *overrides), SHAPES)
    ours = build_model(quick_config(name.replace("seqformer", "msts"), *SMALL, *overrides), SHAPES)
    ours.load_state_dict(base.state_dict(), strict=False)
    return [base, ours]


@pytest.mark.parametrize("preset", ["lean", "full"])
def test_closed_gates_are_seqformer_to_the_bit(clip: Tensor, preset: str) -> None:
    models = [model.eval() for model in pair("MODEL.MSTS.PRESET", preset)]
    outputs = [model.run_clip(model.normalise(clip)) for model in models]
    assert torch.equal(outputs[0].features.memory, outputs[1].features.memory)
    for name in ("query", "logits", "boxes_cxcywh", "selected", "coarse_logits"):
        assert torch.equal(getattr(outputs[0], name), getattr(outputs[1], name)), name
    with torch.no_grad():
        for layer in models[1].encoder.layers:
            layer.branch.gate.fill_(0.5)
    opened = models[1].run_clip(models[1].normalise(clip))
    assert not torch.allclose(outputs[0].features.memory, opened.features.memory, atol=1e-3)


def test_one_training_step_with_closed_gates_has_seqformers_losses() -> None:
    options = ("MODEL.ADVERSARY", "none")
    trainers = []
    base = make_trainer(quick_config("seqformer_tiny", *SMALL), 1)
    ours = make_trainer(quick_config("msts_tiny", *SMALL, *options), 1)
    ours.model.load_state_dict(base.model.state_dict(), strict=False)
    for trainer in (base, ours):
        trainer.train()
        trainers.append(trainer.last.losses)
    assert trainers[0] == trainers[1]
    gates = {n: p for n, p in ours.model.named_parameters() if n.endswith(".gate")}
    assert len(gates) == 2 + 1
    assert all(p.abs().max() > 0 for p in gates.values()), "one step opens every gate"


@torch.no_grad()
def test_opened_frames_permute_the_memory(clip: Tensor) -> None:
    _, model = pair()
    model.eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".gate"):
            parameter.fill_(0.5)
    order = torch.tensor([2, 0, 3, 1])
    out = model.run_clip(model.normalise(clip))
    permuted = model.run_clip(model.normalise(clip[order]))
    memory = out.features.memory[order]
    torch.testing.assert_close(permuted.features.memory, memory, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(permuted.logits, out.logits, atol=1e-4, rtol=1e-4)
    # frames come in parts, and yet every frame knows of all
    changed = clip.clone()
    changed[3] = 255 - changed[3]
    other = model.run_clip(model.normalise(changed))
    assert (other.features.memory[0] - out.features.memory[0]).abs().max() > 1e-4


@pytest.mark.parametrize("frames", [1, 3, 5, 12])
@torch.no_grad()
def test_the_network_takes_any_number_of_frames(clip: Tensor, frames: int) -> None:
    _, model = pair()
    frames_px = clip.repeat(3, 1, 1, 1)[:frames]
    out = model.eval().run_clip(model.normalise(frames_px))
    assert out.coarse_logits.shape[1] == frames
    assert out.boxes_cxcywh.shape[0] == frames
    assert torch.isfinite(out.coarse_logits).all()


@pytest.mark.parametrize("name", ["msts_vmt_tiny", "msts_vmt_tiny_released"])
def test_refiners_run_on_top_by_config_alone(clip: Tensor, name: str) -> None:
    model = build_model(quick_config(name, *SMALL), SHAPES).eval()
    tracklets = model.segment_clip(clip)
    assert tracklets.mask_stride < 8
    assert torch.isfinite(tracklets.mask_logits).all()


def test_gates_and_norms_of_additions_are_not_decayed() -> None:
    cfg = quick_config("msts_tiny", *SMALL)
    model = build_model(cfg, SHAPES)
    optimizer = build_optimizer(cfg, model)
    free = {n for g in optimizer.param_groups if g["weight_decay"] == 0 for n in g["param_names"]}
    assert free == {
        name
        for name, _ in model.named_parameters()
        if (".branch." in name or ".mixer." in name) and (".gate" in name or ".norm" in name)
    }
    assert len(free) == 2 * (1 + 2 + 4) + (1 + 2)
    rates = {g["lr"] for g in optimizer.param_groups if g["weight_decay"] == 0}
    assert rates == {cfg.SOLVER.BASE_LR}


def test_an_unknown_preset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"MODEL\.MSTS\.PRESET 'huge' must be one of lean, full"):
        build_model(quick_config("msts_tiny", "MODEL.MSTS.PRESET", "huge"), SHAPES)


# --- weights -----------------------------------------------------------------------------------


def test_files_of_seqformer_and_of_the_public_repository(clip: Tensor, tmp_path) -> None:
    base, ours = pair()
    state = published_state(base)
    path = tmp_path / "seqformer.pth"
    torch.save({"model": state}, path)
    load_weights(base, path)
    report = load_weights(ours, path)
    assert {name.split(".")[0] for name in report.new} == {"encoder", "decoder"}
    assert all(".branch." in name or ".mixer." in name for name in report.new)
    assert not any("temp_attn" in name for name in report.unused)
    outputs = [m.eval().run_clip(m.normalise(clip)) for m in (base, ours)]
    assert torch.equal(outputs[0].coarse_logits, outputs[1].coarse_logits)

    extra = {"qkv.weight": (900, 300), "proj.weight": (300, 300), "proj.bias": (300,)}
    for layer, (name, shape) in itertools.product(range(2), extra.items()):
        key = f"detr.transformer.decoder.layers.{layer}.temp_attn_box.{name}"
        state[key] = torch.zeros(shape)
    torch.save({"model": state}, tmp_path / "msts.pth")
    again = load_weights(ours, tmp_path / "msts.pth")
    unused = [name for name in again.unused if "temp_attn_box" in name]
    assert len(unused) == 6
    assert "in the file, read by no network" in again.text()
    assert set(again.unused) - set(unused) == set(report.unused)


def test_weights_of_ours_go_to_the_published_layout_and_back(tmp_path) -> None:
    _, ours = pair()
    released = RELEASED.to_released(ours.state_dict())
    assert released.unknown == []
    back = RELEASED.to_ours(released.state)
    assert back.unknown == []
    for name, value in ours.state_dict().items():
        assert torch.equal(back.state[name], value), name
    write_weights(ours.state_dict(), tmp_path / "ours.safetensors")
    assert describe(read_weights(tmp_path / "ours.safetensors")).method == "MS-STS VIS"


def test_half_an_addition_is_no_addition(tmp_path) -> None:
    _, ours = pair()
    state = ours.state_dict()
    del state["encoder.layers.1.branch.gate"]
    torch.save({"model": state}, tmp_path / "half.pth")
    with pytest.raises(CheckpointError, match=r"1 entries are missing.*layers\.1\.branch\.gate"):
        load_weights(ours, tmp_path / "half.pth")
