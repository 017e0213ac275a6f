"""What ``vmt doctor`` does: facts about this installation, each tried, and a report of them."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
from collections.abc import Sequence

import torch

from vmt.ops.deform_attn import (
    BackendReport,
    describe_backend,
    ms_deform_attn,
    ms_deform_attn_reference,
)
from vmt.utils.env import Fact, State, environment_facts
from vmt.version import __version__

_ATTENTION = "deformable attention"
#: FFmpeg's names of encoders that the overlay can use, best first.
_H264_ENCODERS = ("libx264", "libopenh264", "h264")
_DECODERS = ("h264", "hevc", "vp8", "vp9", "av1", "mpeg4", "mjpeg", "gif", "prores")
#: Largest difference of two back ends on inputs of about 1 in fp32.
_TOLERANCE = 1e-4
_MARKS = {"ok": "ok", "missing": "--", "broken": "BROKEN"}


def examine() -> list[Fact]:
    """All facts; what libraries would warn of stands in them."""
    logging.disable(logging.WARNING)
    try:
        attention, scorer = attention_facts(), scorer_fact()
        built = describe_backend().backends["cpu"].available and scorer.state == "ok"
        return [*environment_facts(kernels_built=built), *attention, *codec_facts(), scorer]
    finally:
        logging.disable(logging.NOTSET)


def report(facts: Sequence[Fact], *, as_json: bool = False) -> str:
    """Facts as text, or as JSON for machines."""
    if as_json:
        rows = [dataclasses.asdict(fact) for fact in facts]
        sound = all(fact.state != "broken" for fact in facts)
        return json.dumps({"version": __version__, "ok": sound, "facts": rows}, indent=1)
    lines = [f"vmt {__version__}"]
    width = max(len(fact.name) for fact in facts)
    for group, members in itertools.groupby(facts, key=lambda fact: fact.group):
        lines += ["", group]
        for fact in members:
            lines.append(f"  {_MARKS[fact.state]:<6}  {fact.name:<{width}}  {fact.value}")
            if fact.fix:
                lines.append(f"  {'':<6}  {'':<{width}}  -> {fact.fix}")
    return "\n".join([*lines, "", _summary(facts)])


def attention_facts() -> list[Fact]:
    """Which back end of the multi-scale deformable attention runs where, and why; with a try."""
    report = describe_backend()
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    facts = [_active_fact(device, report) for device in devices]
    facts += [attention_trial(device) for device in devices]
    if "cuda" in devices:
        facts.append(Fact(_ATTENTION, "kernel cache", report.cuda_cache_dir))
    return facts


def _active_fact(device: str, report: BackendReport) -> Fact:
    active, name = report.active[device], f"on {device}"
    if active.startswith("error"):
        fix = "unset VMT_DEFORM_ATTN, or make the back end that it forces available"
        return Fact(_ATTENTION, name, active, "broken", fix)
    if report.forced:
        return Fact(_ATTENTION, name, f"{active} (forced by VMT_DEFORM_ATTN={report.forced})")
    reason = report.backends[device].reason
    if reason:
        # a GPU that computes ten times slower than it can is no taste, and it can be mended
        mends = device == "cuda" and torch.version.hip is None
        state: State = "broken" if mends else "missing"
        return Fact(_ATTENTION, name, f"{active} (slower, same results)", state, reason)
    details = f" ({report.cpu_isa}, {report.cpu_threads} threads)" if device == "cpu" else ""
    return Fact(_ATTENTION, name, f"{active}{details}: the fastest")


def attention_trial(device: str) -> Fact:
    """Run the operator once and hold it against the PyTorch reference."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(6, 8), (3, 4)]
    value = torch.randn(1, 60, 2, 8, generator=generator)
    locations = torch.rand(1, 5, 2, 2, 4, 2, generator=generator)
    weights = torch.rand(1, 5, 2, 2, 4, generator=generator) / 8
    name = f"trial on {device}"
    fix = "VMT_DEFORM_ATTN=reference works without kernels; please report this"
    try:
        inputs = (value.to(device), shapes, locations.to(device), weights.to(device))
        actual = ms_deform_attn(*inputs).cpu()
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        return Fact(_ATTENTION, name, " ".join(str(error).split()), "broken", fix)
    expected = ms_deform_attn_reference(value, shapes, locations, weights)
    difference = float((actual - expected).abs().max())
    if not difference <= _TOLERANCE:
        value_text = f"differs from the reference by {difference:.1e}"
        return Fact(_ATTENTION, name, value_text, "broken", fix)
    return Fact(_ATTENTION, name, f"equals the reference to {difference:.0e}")


def codec_facts() -> list[Fact]:
    """What PyAV can read and write; empty without PyAV, which the packages report."""
    try:
        import av
    except (ImportError, OSError):
        return []
    encoder = next((name for name in _H264_ENCODERS if _has_codec(name, "w")), None)
    fix = "reinstall PyAV from its wheels: pip install --force-reinstall --only-binary :all: av"
    facts = [Fact("codecs", "FFmpeg", str(av.ffmpeg_version_info))]
    if encoder is None:
        facts.append(Fact("codecs", "H.264 encoder", "none: no overlay.mp4", "broken", fix))
    else:
        facts.append(Fact("codecs", "H.264 encoder", encoder))
    readable = [name for name in _DECODERS if _has_codec(name, "r")]
    absent = [name for name in _DECODERS if name not in readable]
    if "h264" in absent:
        facts.append(Fact("codecs", "decoders", "no H.264: most mp4 files", "broken", fix))
    else:
        facts.append(Fact("codecs", "decoders", ", ".join(readable)))
    if absent:
        facts.append(Fact("codecs", "not readable", ", ".join(absent), "missing", fix))
    return facts


def _has_codec(name: str, mode: str) -> bool:
    from av.codec import Codec
    from av.codec.codec import UnknownCodecError

    try:
        Codec(name, mode)
    except UnknownCodecError:
        return False
    return True


def scorer_fact() -> Fact:
    """Whether the scoring package has its kernel."""
    try:
        from cocoapi_hq.io.native import kernel
    except ImportError as error:
        fix = "pip install cocoapi-hq"
        return Fact("scoring", "cocoapi_hq", str(error), "broken", fix)
    if kernel() is None:
        fix = (
            "the wheel for Linux on x86-64 has it; elsewhere install a C++ compiler, then "
            "pip install --force-reinstall --no-binary cocoapi-hq cocoapi-hq"
        )
        return Fact("scoring", "kernel", "absent: same scores, slower", "missing", fix)
    return Fact("scoring", "kernel", "built")


def _summary(facts: Sequence[Fact]) -> str:
    names = {
        state: [fact.name for fact in members]
        for state, members in itertools.groupby(
            sorted(facts, key=lambda fact: fact.state), key=lambda fact: fact.state
        )
    }
    optional = f"optional and missing: {', '.join(names.get('missing', [])) or 'nothing'}."
    if "broken" in names:
        return f"BROKEN: {', '.join(names['broken'])}; {optional}"
    return f"Everything required works; {optional}"
