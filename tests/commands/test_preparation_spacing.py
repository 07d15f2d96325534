"""``--spacing auto``: what is chosen, stored and told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from semisam_o1.commands.export import write_image
from semisam_o1.commands.preparation import parse_arguments, prepare
from semisam_o1.data.dataset.volumes import Dataset, Geometry
from semisam_o1.data.preparation.settings import read_preparation


def write_scans(root: Path, shape: tuple[int, ...], spacings: list[tuple[float, ...]]) -> list[str]:
    """Write scans of noise, the first with a box as its label; return the flags that name them."""
    label = np.zeros(shape, np.uint8)
    label[tuple(slice(side // 4, 3 * side // 4) for side in shape)] = 1
    for index, spacing in enumerate(spacings):
        image = np.random.default_rng(index).normal(size=shape).astype(np.float32)
        write_image(root / "scans" / f"s{index}.nii.gz", image, Geometry(spacing, known=True))
    write_image(root / "masks" / "s0.nii.gz", label, Geometry(spacings[0], known=True))
    return ["nifti", "--images", str(root / "scans"), "--labels", str(root / "masks"), "--spacing", "auto"]


@pytest.mark.parametrize(
    ("shape", "spacings", "chosen", "told"),
    [
        ((24, 22, 20), [(1.0, 1.0, 3.0)] * 2, None, "1 × 1 × 3 mm, as it is: a scan is small enough"),
        ((24, 22, 20), [(1.0, 1.0, 3.0), (1.2, 1.2, 3.0)], (1.1, 1.1, 3.0), "1.1 × 1.1 × 3 mm, as it is"),
        ((128, 128, 36), [(0.8, 0.8, 3.0)] * 2, (1.0, 1.0, 3.0), "a scan becomes 102 × 102 × 36 voxels, which a CPU"),
    ],
)
def test_spacing_is_chosen_by_size_and_kept(
    tmp_path: Path,
    shape: tuple[int, ...],
    spacings: list[tuple[float, ...]],
    chosen: tuple[float, ...] | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("semisam_o1.plan.facts.CPU_PATCH", 300_000)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    flags = [*write_scans(tmp_path, shape, spacings), str(tmp_path / "out")]
    assert told in " ".join(prepare(parse_arguments(flags, "")).split())
    assert read_preparation(tmp_path / "out").spacing == chosen
    found = {Dataset(tmp_path / "out").header(f"s{i}").grid.geometry.spacing for i in range(2)}
    assert found == {chosen or spacings[0]}
    assert "2 kept" in prepare(parse_arguments(flags, "")), "the same again changes nothing"
