"""What makes the same network train faster on a CPU; on other devices none of it applies."""

import ctypes
import sys

from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import nn

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc


def keep_large_allocations(keep: bool = True) -> bool:
    """Let malloc reuse memory of any size instead of giving it back; return whether this C library can.

    By default glibc asks the system for every block above 32 MiB anew, and the system fills it with zeros
    page by page: an attention map of 16 images at 16 px is that large. `keep=False` goes back to the
    thresholds that glibc arrives at by itself.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    mapped, trimmed = (2**30, 2**31 - 1) if keep else (2**25, 2**26)
    return bool(mallopt(_M_MMAP_THRESHOLD, mapped)) and bool(mallopt(_M_TRIM_THRESHOLD, trimmed))


def use_plain_attention(model: nn.Module, largest_head: int = 16) -> int:
    """Compute narrow attention heads by two matrix products and a softmax; return how many layers changed.

    The fused kernel for CPUs is slow in bfloat16 for heads of few channels, and diffusers' default is 8.
    Plain attention stores the attention map, so it is for few tokens: 256 of an image at 16 px.
    """
    layers = [layer for layer in model.modules() if isinstance(layer, Attention)]
    narrow = [layer for layer in layers if layer.inner_dim // layer.heads <= largest_head]
    for layer in narrow:
        layer.set_processor(AttnProcessor())
    return len(narrow)
