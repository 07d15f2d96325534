"""Checkpoints, metrics and label maps agree with the tools that people use beside this one."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch

from directions import DIRECTIONS
from golden_inputs import golden
from semisam_o1.commands.export import export_path, write_image
from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Geometry
from semisam_o1.evaluation.metrics import segmentation_metrics
from semisam_o1.networks import build_network
from semisam_o1.training.checkpoint import load_weights


def published_keys(levels: int = 4) -> set[str]:
    """Return the state-dict keys of SSL4MIS's unet_3D, from how its modules are nested.

    https://github.com/HiLab-git/SSL4MIS, code/networks/unet_3D.py: UnetConv3 blocks conv1 … conv4 and center, each
    two Sequential(Conv3d, InstanceNorm3d, ReLU); UnetUp3_CT blocks up_concat4 … up_concat1 around one more; final.
    """
    blocks = [*(f"conv{i + 1}" for i in range(levels)), "center", *(f"up_concat{i + 1}.conv" for i in range(levels))]
    layers = [f"{block}.conv{half}.0" for block in blocks for half in (1, 2)] + ["final"]
    return {f"{layer}.{part}" for layer in layers for part in ("weight", "bias")}


def test_keys_are_those_of_ssl4mis_and_of_the_original() -> None:
    network = build_network("unet_3D", 2)
    assert set(network.state_dict()) == published_keys() == set(golden("network_state_dicts.json")["unet_3D_c2"])


WRAPPINGS = {
    "plain": lambda weights: weights,
    "data parallel": lambda weights: {f"module.{key}": value for key, value in weights.items()},
    "state_dict": lambda weights: {"epoch": 3, "state_dict": weights},
    "model_state_dict": lambda weights: {"model_state_dict": {f"module.{k}": v for k, v in weights.items()}},
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
def test_checkpoints_load_as_they_are_saved_elsewhere(wrap, tmp_path: Path) -> None:
    saved = build_network("unet_3D", 2, generator=torch.Generator().manual_seed(1))
    torch.save(wrap(saved.state_dict()), tmp_path / "iter_6000.pth")
    network = build_network("unet_3D", 2)
    load_weights(network, tmp_path / "iter_6000.pth")
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in network.state_dict().items())
    with pytest.raises(InputError, match="does not fit"):
        load_weights(build_network("unet_3D", 3), tmp_path / "iter_6000.pth")


@pytest.mark.parametrize("seed", range(3))
def test_metrics_agree_with_monai_where_definitions_do(seed: int) -> None:
    monai = pytest.importorskip("monai.metrics", reason="MONAI is not installed (requirements-dev.txt)")
    generator = np.random.default_rng(seed)
    x, y, z = np.indices((20, 17, 14))
    spacing = (0.8, 1.0, 2.5)
    masks = []
    for _ in range(2):
        center, radii = generator.uniform(6, 9, 3), generator.uniform(3, 6, 3)
        masks.append(sum(((a - c) / r) ** 2 for a, c, r in zip((x, y, z), center, radii, strict=True)) < 1)
    ours = segmentation_metrics(*masks, spacing)
    prediction, truth = (torch.from_numpy(mask)[None, None] for mask in masks)
    assert ours["dice"] == pytest.approx(float(monai.compute_dice(prediction, truth)), abs=1e-6)
    assert ours["jaccard"] == pytest.approx(float(monai.compute_iou(prediction, truth)), abs=1e-6)
    # MONAI's HD95 is the larger of two directed percentiles, medpy's and ours the percentile of both together.
    distance = monai.compute_average_surface_distance(prediction, truth, include_background=True, spacing=list(spacing))
    assert ours["asd"] == pytest.approx(float(distance), rel=1e-4)


@pytest.mark.parametrize("source", ["a.nii.gz", "a.nrrd", "a.mha", "a.nhdr", "a.mhd", "dicom_folder"])
@pytest.mark.parametrize("direction", DIRECTIONS.values(), ids=DIRECTIONS)
def test_label_maps_of_every_format_lie_over_the_scan(source: str, direction: np.ndarray, tmp_path: Path) -> None:
    geometry = Geometry((0.7, 1.2, 3.0), (4.5, -20.0, 8.0), tuple(direction.ravel().tolist()), known=True)
    label = np.zeros((5, 6, 7), np.uint8)
    label[1, 2, 3] = 2
    path = export_path(tmp_path, "a", source)
    write_image(path, label, geometry)
    expected = np.array(geometry.origin) + direction @ (np.array([1, 2, 3]) * geometry.spacing)
    image = sitk.ReadImage(str(path))
    np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((1, 2, 3)), expected, atol=1e-4)
    assert image[1, 2, 3] == 2
    assert sitk.GetArrayFromImage(image).sum() == 2
    if path.name.endswith(".nii.gz"):
        loaded = nibabel.load(path)
        place = loaded.affine @ [1, 2, 3, 1]
        np.testing.assert_allclose(
            place[:3], expected * [-1, -1, 1], atol=1e-4
        )  # nibabel counts to the right and front
        assert np.asarray(loaded.dataobj)[1, 2, 3] == 2
