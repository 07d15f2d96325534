"""Valid files with seeded random damage: each is refused in one sentence or still reads as valid data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from semisam_o1.core.errors import InputError
from semisam_o1.data.dataset.volumes import Dataset, Geometry, Volume, write_volume
from semisam_o1.data.preflight import inspection
from semisam_o1.data.preflight.inspection import Need
from semisam_o1.pipeline.config import TrainConfig
from semisam_o1.refinement.pseudo_labels import PseudoLabels
from semisam_o1.runs.arguments import read_previous
from semisam_o1.runs.layout import RunFolder
from semisam_o1.runs.records import RoundRecord, load_labels, read_records, write_round
from semisam_o1.training.checkpoint import load_state, load_weights, previous, save

SHAPE = (11, 10, 9)
VOLUMES, CHECKPOINTS, LABELS, STATES, ARGUMENTS = 240, 120, 60, 40, 40  # mutations of each


def mutate(content: bytes, number: int) -> bytes:
    """Return the content with bytes changed, cut out, doubled, zeroed or cut off, by the number."""
    generator = np.random.default_rng([99, number])
    data = bytearray(content)
    place = int(generator.integers(len(data)))
    length = int(generator.integers(1, 64))
    kind = number % 6
    if kind == 0:
        data[place] ^= 1 << int(generator.integers(8))
    elif kind == 1:
        for index in generator.integers(len(data), size=length):
            data[index] = int(generator.integers(256))
    elif kind == 2:
        data[place : place + length] = bytes([255 * (number // 6 % 2)]) * length
    elif kind == 3:
        del data[place:]
    elif kind == 4:
        del data[place : place + length]
    else:
        data[place:place] = data[place : place + length]
    return bytes(data)


def volume_files(folder: Path) -> list[bytes]:
    """Return a volume as this project writes it, one of plain contiguous arrays, and one of many attributes."""
    generator = np.random.default_rng(4)
    image = generator.standard_normal(SHAPE).astype(np.float32)
    label = generator.integers(0, 3, SHAPE).astype(np.uint8)
    geometry = Geometry((1.0, 1.5, 2.0), (5.0, -3.0, 7.0), known=True)
    write_volume(folder / "a.h5", Volume("a", image, label, geometry, source="scan.nii"))
    with h5py.File(folder / "b.h5", "w") as file:
        file["image"], file["label"] = image, label
    with h5py.File(folder / "c.h5", "w", libver="latest") as file:
        file.create_dataset("image", data=image, chunks=(4, 4, 4), maxshape=(None, None, None), shuffle=True)
        file.create_dataset("label", data=label, chunks=(4, 4, 4), scaleoffset=4)
        file.attrs["spacing"] = geometry.spacing
    return [(folder / f"{name}.h5").read_bytes() for name in "abc"]


def one_sentence(message: str, path: Path) -> None:
    assert str(path) in message
    assert "Traceback" not in message
    assert "\n" not in message.strip()


def test_volumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspection, "READ_TIMEOUT", 30.0)
    originals = volume_files(tmp_path)
    dataset = Dataset(tmp_path)
    (tmp_path / "data").mkdir()
    names = [f"m{number}" for number in range(VOLUMES)]
    for number, name in enumerate(names):
        dataset.path(name).write_bytes(mutate(originals[number % 3], number // 3 * 7 + number))
    reports = list(inspection.inspect_all(dataset, [(name, Need(3, True, True)) for name in names], 2))
    refused = 0
    for name, report in zip(names, reports, strict=True):
        for fault in report.faults:
            one_sentence(fault, dataset.path(name))
        if not report.faults:
            volume = dataset.load(name)
            assert volume.image.ndim == 3
            assert volume.label.shape == volume.image.shape == report.info.shape
            assert np.isfinite(volume.image).all()
            assert volume.label.max() < 3
        refused += bool(report.faults)
    assert VOLUMES // 4 < refused < VOLUMES, "damage must both be met and be survived"


def attempt(number: int, path: Path, content: bytes, read: Callable[[], object]) -> bool:
    """Return whether a mutated file still reads; a refusal must be one sentence that names it."""
    path.write_bytes(mutate(content, number))
    try:
        read()
    except InputError as error:
        one_sentence(str(error), path)
        return False
    return True


def test_checkpoints(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.Linear(5, 2))
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    torch.save(weights, tmp_path / "new.pth")
    torch.save(weights, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    originals = [(tmp_path / f"{name}.pth").read_bytes() for name in ("new", "old")]
    path = tmp_path / "mutated.pth"
    read = 0
    for number in range(CHECKPOINTS):
        original = originals[number % 4 == 3]
        if attempt(number, path, original, lambda: load_weights(network, path)):
            read += 1
            assert all(torch.isfinite(value).all() for value in network.state_dict().values())
            if original is originals[0]:  # has checksums: what is read is what was written
                assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert read < CHECKPOINTS // 2


def test_states(tmp_path: Path) -> None:
    path = tmp_path / "state.pth"
    student = {"w": torch.arange(50.0)}
    content = {"round": 2, "seed": 1, "iteration": 7, "student": student, "method": {}, "optimizer": {}, "best": None}
    save(content, path)
    original = path.read_bytes()
    for number in range(STATES):
        save({**content, "iteration": 6}, path, keep=previous(path))
        save(content, path, keep=previous(path))
        path.write_bytes(mutate(original, number))
        state, faults = load_state(path, 2)
        assert torch.equal(state["student"]["w"], student["w"])
        assert state["iteration"] == (6 if faults else 7)


def test_pseudo_labels(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "unet_3D")
    labels = {f"v{i}": np.random.default_rng(i).integers(0, 3, SHAPE).astype(np.uint8) for i in range(4)}
    record = RoundRecord(1, 0.1, 0.3, ("v2",), 0.25, 0.8, (0.8, 0.8), 1.0, 0.7, 20)
    write_round(folder, PseudoLabels(labels, {"v1": 0.3}, ["v2"], {"v1": 0.8}), record)
    path = folder.pseudo_labels(1)
    assert read_records(folder) == [record]
    original = path.read_bytes()

    def read() -> None:
        found = load_labels(path, labels)
        # Structure has no checksum, voxels have one.
        assert all(found[name].ndim == 3 for name in labels)
        assert all(isinstance(record, RoundRecord) for record in read_records(folder))

    assert sum(attempt(number, path, original, read) for number in range(LABELS)) < LABELS


def test_arguments(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path, "unet_3D")
    original = json.dumps({"arguments": {"exp": TrainConfig().exp}, "data": {}, "versions": {"torch": "2"}}).encode()
    for number in range(ARGUMENTS):
        attempt(number, folder.args, original, lambda: read_previous(folder))


def test_there_are_enough_mutations() -> None:
    assert VOLUMES + CHECKPOINTS + LABELS + STATES + ARGUMENTS >= 300
