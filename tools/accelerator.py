"""Whether there is a GPU for ComfyUI to run on."""

from __future__ import annotations


def has_gpu() -> bool:
    """True when torch sees a CUDA / ROCm, Intel or Apple device."""
    import torch  # late: it takes seconds, and only demo and serve ask

    found = torch.cuda.is_available() or torch.backends.mps.is_available()
    return bool(found or (hasattr(torch, "xpu") and torch.xpu.is_available()))
