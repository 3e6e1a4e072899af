"""Arithmetic of the forward and backward pass; weights that move stay float32 in every precision."""

from __future__ import annotations

import torch

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(device: torch.device | str, precision: str) -> torch.autocast:
    """Matrix products and convolutions in `precision`, reductions in float32; does nothing for fp32."""
    return torch.autocast(torch.device(device).type, dtype=DTYPES[precision], enabled=precision != "fp32")


def scaler(device: torch.device | str, precision: str) -> torch.amp.GradScaler:
    """Keeps small fp16 gradients from becoming zero; needed nowhere else, and disabled there."""
    kind = torch.device(device).type
    return torch.amp.GradScaler(kind, enabled=kind == "cuda" and precision == "fp16")
