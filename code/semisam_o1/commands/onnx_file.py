"""A network in ONNX: from windows (batch, 1, w, h, d) to class probabilities (batch, classes, w, h, d).

Windows may have any sides that the network can halve.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from semisam_o1.core.atomic_io import write_bytes
from semisam_o1.core.errors import RunError
from semisam_o1.networks.unet3d import UNet3D

OPSET = 17
TRACED, TRIED = (32, 32, 32), ((32, 32, 32), (48, 32, 64))  # sizes of windows in voxels
MAX_DIFFERENCE = 1e-4  # of a probability


class _Probabilities(nn.Module):
    def __init__(self, network: UNet3D):
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        return self.network.logits(image).softmax(1)


def write_onnx(path: Path, network: UNet3D) -> tuple[float, str]:
    """Write a network on the CPU as ONNX; return the largest difference of its probabilities, and what computed them.

    Raises:
        RunError: if ONNX computes something else than PyTorch; nothing was written then.
        WriteError: if the file cannot be written.
    """
    module, content = _Probabilities(network.eval().float()).eval(), io.BytesIO()
    axes = {0: "batch", 2: "w", 3: "h", 4: "d"}
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of the tracer, about what is verified below
        torch.onnx.export(
            module,
            (torch.zeros(1, 1, *TRACED),),
            content,
            input_names=["image"],
            output_names=["probabilities"],
            dynamic_axes={"image": axes, "probabilities": axes},
            opset_version=OPSET,
            dynamo=False,
        )
    compute, by = _session(content.getvalue())
    generator, difference = torch.Generator().manual_seed(0), 0.0
    for size in TRIED if by == "onnxruntime" else TRIED[:1]:  # the other one takes many seconds
        image = torch.randn((1, 1, *size), generator=generator)
        with torch.no_grad():
            difference = max(difference, float(np.abs(module(image).numpy() - compute(image.numpy())).max()))
    if not difference <= MAX_DIFFERENCE:
        raise RunError(f"{path} was not written: by {by} its probabilities differ by {difference:.1e} from PyTorch's")
    write_bytes(path, content.getbuffer())
    return difference, by


def _session(content: bytes) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Return what computes a network in ONNX, and its name: onnxruntime, or else the reference of onnx."""
    model = onnx.load_model_from_string(content)
    onnx.checker.check_model(model)
    try:
        import onnxruntime
    except ImportError:
        from onnx.reference import ReferenceEvaluator

        evaluator = ReferenceEvaluator(model)
        return lambda image: evaluator.run(None, {"image": image})[0], "onnx"
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0], "onnxruntime"
