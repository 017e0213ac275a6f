"""MS-STS (arXiv:2203.13253): SeqFormer with adapters, trained against a discriminator.

It is ``VideoMaskTransfiner`` with ``MODEL.SEQFORMER.ENCODER_ADAPTER`` and ``DECODER_ADAPTER`` and
``MODEL.ADVERSARY`` set; here its parts get the names by which these keys call them.
"""

from __future__ import annotations

from vmt.modeling.msts.decoder import TemporalAttention
from vmt.modeling.msts.encoder import SplitAttention
from vmt.modeling.msts.separability import Separability
from vmt.modeling.registry import ADVERSARIES, DECODER_ADAPTERS, ENCODER_ADAPTERS, register

register(ENCODER_ADAPTERS, "msts")(SplitAttention)
register(DECODER_ADAPTERS, "temporal_attention")(TemporalAttention)
register(ADVERSARIES, "foreground_background")(Separability)
