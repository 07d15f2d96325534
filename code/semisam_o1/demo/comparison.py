"""What training gains over round 0, on the same test scans: a table and a figure."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from semisam_o1.commands.config import TestConfig
from semisam_o1.core.device import resolve_device, resolve_precision
from semisam_o1.core.memory import configure_allocator
from semisam_o1.data.dataset.volumes import Dataset
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.evaluation.predictor import Predictor
from semisam_o1.networks import build_network
from semisam_o1.propagation.atlas import AtlasPropagation, Template
from semisam_o1.runs.find import find_trained
from semisam_o1.training.checkpoint import load_weights


def compare_with_round0(dataset: Dataset, config: TestConfig, summary: dict[str, Any]) -> str:
    """Propagate the template's label to the test scans, as round 0 does, and compare with the trained model.

    Args:
        config: the test that ``summary`` came from.
        summary: of ``test``.

    Returns:
        The table. A figure of the typical test case goes to the run's figures/.
    """
    from semisam_o1.drawing.figures import draw_case

    trained = find_trained(config.exp, backbone=config.backbone)
    config = config.resolve({**trained.arguments, "model": trained.model})
    template = dataset.load(dataset.names("train.txt")[0])
    atlas = AtlasPropagation([Template(template.image, template.label)], config.num_classes, registration=False)
    names = dataset.names(config.test_list)
    volumes = {name: dataset.load(name) for name in names}
    round0 = {name: atlas.label(volume.image).label for name, volume in volumes.items()}
    scores = np.array([dice_per_class(round0[n], volumes[n].label, config.num_classes) for n in names])
    typical = names[int(np.argsort(scores.mean(axis=1))[len(names) // 2])]

    device = torch.device(resolve_device(config.device))
    configure_allocator(device.type)
    network = build_network(config.model, config.num_classes)
    load_weights(network, trained.checkpoint)
    stride = (config.stride_xy, config.stride_xy, config.stride_z)
    predict = Predictor(network.to(device), config.patch_size, stride, resolve_precision(config.precision, device.type))
    prediction = predict(torch.from_numpy(volumes[typical].image)).argmax(0).cpu().numpy()
    path = trained.folder / "figures" / "demo.png"
    draw_case(volumes[typical], round0[typical], prediction, path)

    final = [summary["classes"][str(c)]["dice"]["mean"] for c in range(1, config.num_classes)]
    rows = [*((str(c), scores[:, c - 1].mean(), final[c - 1]) for c in range(1, config.num_classes))]
    rows.append(("all", scores.mean(), summary["overall"]["dice"]["mean"]))
    lines = [f"mean Dice on {len(names)} test scans", "class   round 0   trained"]
    lines += [f"{label:>5}   {before:7.4f}   {after:7.4f}" for label, before, after in rows]
    return "\n".join([*lines, f"figure: {path}"])
