"""The networks by the names that the command line and the checkpoints use."""

from __future__ import annotations

import inspect

import torch

from semisam_o1.networks.levels import ISOTROPIC
from semisam_o1.networks.unet3d import UNet3D, UNet3DSDF

NETWORKS = {"unet_3D": UNet3D, "unet_3D_sdf": UNet3DSDF}


def build_network(
    name: str,
    num_classes: int,
    in_channels: int = 1,
    dropout: float = 0.3,
    generator: torch.Generator | None = None,
    levels: str = ISOTROPIC,
) -> UNet3D:
    """Return a network with fresh weights, whose state-dict keys are those of the published checkpoints.

    Args:
        name: ``unet_3D`` (returns logits) or ``unet_3D_sdf`` (returns signed distance and logits); else ValueError.
        num_classes: background included.
        generator: random generator on the CPU for the weights; None: PyTorch's global one.
        levels: kernels and strides, of ``networks.levels``, for a network that takes them; the names of the weights do
            not depend on them.
    """
    if name not in NETWORKS:
        raise ValueError(f"no network is called {name!r}; there are {', '.join(NETWORKS)}")
    chosen = (levels,) if takes_levels(name) else ()
    return NETWORKS[name](num_classes, in_channels, dropout, *chosen).initialize(generator)


def takes_levels(name: str) -> bool:
    """Return whether the kernels and strides of a network can be chosen."""
    return "levels" in inspect.signature(NETWORKS[name]).parameters
