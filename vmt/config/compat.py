"""``COMPAT``: what the published code does where ours differs (docs/reference/released_code.md)."""

from __future__ import annotations

from dataclasses import dataclass

from fvcore.common.config import CfgNode as Node

from vmt.utils.errors import ConfigError


@dataclass(frozen=True)
class Behaviour:
    """What ``COMPAT`` decides.

    Args:
        sampler: see ``build_sampler``.
        augmentation: see ``build_augmentation``.
        pseudo_clip: see ``build_pseudo_clip``.
        keep_invisible: tracklets that no frame of the clip shows stay targets.
        crop_to_input: network output is cut to the input size before it is stretched to the
            video's.
    """

    sampler: str
    augmentation: str
    pseudo_clip: str
    keep_invisible: bool
    crop_to_input: bool


RELEASED = Behaviour("released", "released", "released", keep_invisible=True, crop_to_input=False)
#: Keys that ``COMPAT: released`` takes the place of, at the only value they may have beside it.
_REPLACED = {"SAMPLER": "local_global", "AUGMENTATION": "default", "STILLS": "camera"}


def behaviour(cfg: Node) -> Behaviour:
    """By ``COMPAT``, and the keys that it leaves a choice.

    Args:
        cfg: with every key.

    Raises:
        ConfigError: another value, or keys beside it whose place it takes.
    """
    if cfg.COMPAT not in ("none", "released"):
        raise ConfigError(f"COMPAT is {cfg.COMPAT!r}; choose none or released.")
    for key, default in _REPLACED.items():
        value = cfg.INPUT[key]
        if value in ("release", "released"):
            raise ConfigError(f"INPUT.{key} {value} belongs to COMPAT released; write that.")
        if cfg.COMPAT == "released" and value != default:
            raise ConfigError(
                f"COMPAT released brings its own {key.lower()}; leave INPUT.{key} {value} out, or "
                "COMPAT."
            )
    if cfg.COMPAT == "released":
        return RELEASED
    return Behaviour(
        cfg.INPUT.SAMPLER,
        cfg.INPUT.AUGMENTATION,
        cfg.INPUT.STILLS,
        keep_invisible=False,
        crop_to_input=True,
    )
