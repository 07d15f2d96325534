"""How a network is computed on a GPU: choices that change its speed, and its results by rounding alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from semisam_o1.networks.layers import NORMS, InstanceNorm
from semisam_o1.networks.unet3d import UNet3D

LAYOUTS = ("contiguous", "channels_last")


@dataclass(frozen=True)
class Kernels:
    """The choices, with the reference as defaults. CPUs have layers of their own and ignore them."""

    layout: str = "contiguous"  # of activations in memory, or 'channels_last'
    norm: str = "native"  # instance normalization, or one of ``layers.NORMS``
    joined: bool = True  # whether the teacher's passes of UA-MT share calls
    benchmark: bool = False  # whether cuDNN times its algorithms and takes the fastest; may differ from run to run

    def apply(self, network: nn.Module) -> None:
        """Let a network be computed like this from now on."""
        for module in network.modules():
            if isinstance(module, UNet3D):
                module.layout = self.layout
            if isinstance(module, InstanceNorm):
                module.kernel = self.norm

    @classmethod
    def from_json(cls, content: Any) -> Kernels | None:
        """Return what ``dataclasses.asdict`` made of kernels; None if it is anything else."""
        try:
            kernels = cls(**content)
        except TypeError:
            return None
        switches = (kernels.joined, kernels.benchmark)
        known = kernels.layout in LAYOUTS and kernels.norm in ("native", *NORMS)
        return kernels if known and all(isinstance(switch, bool) for switch in switches) else None

    def __str__(self) -> str:
        passes = "" if self.joined else ", separate passes"
        search = ", cuDNN's fastest algorithms" if self.benchmark else ""
        return f"{self.layout.replace('_', ' ')} layout, {self.norm.replace('_', ' ')} normalization{passes}{search}"
