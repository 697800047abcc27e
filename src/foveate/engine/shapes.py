"""The shapes of one attention call."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

# Up to so many queries a call is bound by reading the keys: none is copied for it.
FEW = 16


@cache
def _is_here(kind: str) -> bool:
    return kind != "cuda" or torch.cuda.is_available()


@dataclass(frozen=True)
class Shapes:
    """Sizes, dtype and device of ``q [B,Hq,Sq,D]``, ``k [B,Hkv,Sk,D]``, ``v [B,Hkv,Sk,Dv]``."""

    B: int
    Hq: int
    Hkv: int
    Sq: int
    Sk: int
    D: int
    Dv: int
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def of(cls, q: Tensor, k: Tensor, v: Tensor) -> Shapes:
        """The shapes of three tensors, unchecked."""
        B, Hq, Sq, D = q.shape
        return cls(B, Hq, k.shape[1], Sq, k.shape[2], D, v.shape[3], q.dtype, q.device)

    def fit(self, q: Tensor, k: Tensor, v: Tensor) -> bool:
        """Whether these are the shapes of three tensors; quicker than comparing two objects."""
        return (
            q.shape == (self.B, self.Hq, self.Sq, self.D)
            and k.shape == (self.B, self.Hkv, self.Sk, self.D)
            and v.shape == (self.B, self.Hkv, self.Sk, self.Dv)
            and q.dtype == self.dtype
            and q.device == self.device
        )

    @property
    def home(self) -> torch.device:
        """Where a plan keeps what it folds: the device, or the CPU where this machine has none.

        A plan for a device that is not here can be made and explained, not run.
        """
        return self.device if _is_here(self.device.type) else torch.device("cpu")

    @property
    def half(self) -> bool:
        """Whether the inputs are narrower than float32."""
        return self.dtype.itemsize < 4

    @property
    def stat_dtype(self) -> torch.dtype:
        """The dtype in which statistics accumulate."""
        return torch.float64 if self.dtype == torch.float64 else torch.float32
