#!/usr/bin/env python3
"""Round 0 by atlas against registration with SimpleITK and, where antspyx is installed, ANTs.

Dice, volumes and CPU seconds. The dataset's first training scan is the template; the scans it is carried to need
labels, to score with. The others register whole scans in millimeters, at the resolution that the atlas works at, half
that of a left atrium.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

import code_path  # noqa: F401
from semisam_o1.data.dataset.cache import ArrayCache
from semisam_o1.data.dataset.volumes import Dataset, Volume, content_hash
from semisam_o1.data.preflight.check import Cohort
from semisam_o1.data.preflight.inspection import VolumeInfo
from semisam_o1.data.sampling.fields import resize
from semisam_o1.data.sampling.store import VolumeStore
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.features.builtin import BuiltinFeatures, cell_means
from semisam_o1.features.extract import CohortAccess, VolumeFeatures
from semisam_o1.propagation.cohort import CohortAtlas
from semisam_o1.propagation.region import structures

CONSENSUS = "atlas, consensus with 5 neighbors (on top)"
SAMPLES = 30_000  # voxels that SimpleITK compares

Steps = tuple[tuple[float, ...], tuple[float, ...]]  # mm between voxels of the fixed and of the moving image


def with_ants(fixed: np.ndarray, moving: np.ndarray, label: np.ndarray, steps: Steps) -> np.ndarray:
    """Return the label of ``moving`` carried to ``fixed`` by symmetric normalization with the defaults of antspyx."""
    import ants

    # It starts from the centers of mass, which negative intensities throw out of the images.
    positive = (image - image.min() for image in (fixed, moving))
    target, source = (ants.from_numpy(image, spacing=step) for image, step in zip(positive, steps, strict=True))
    carried = ants.from_numpy(label.astype(np.float32), spacing=steps[1])
    found = ants.registration(target, source, type_of_transform="SyN", random_seed=1337)
    warped = ants.apply_transforms(target, carried, found["fwdtransforms"], interpolator="genericLabel")
    return warped.numpy().astype(np.uint8)


def with_simpleitk(
    fixed: np.ndarray, moving: np.ndarray, label: np.ndarray, steps: Steps, deformable: bool
) -> np.ndarray:
    """Return the label of ``moving`` carried to ``fixed``, by mutual information over three resolutions."""
    target, source, labels = (
        sitk.GetImageFromArray(array) for array in (fixed.astype(np.float32), moving.astype(np.float32), label)
    )
    for image, step in ((target, steps[0]), (source, steps[1]), (labels, steps[1])):
        image.SetSpacing([float(length) for length in step[::-1]])  # its axes run the other way round

    def registration(transform: sitk.Transform) -> sitk.ImageRegistrationMethod:
        method = sitk.ImageRegistrationMethod()
        method.SetMetricAsMattesMutualInformation(32)
        method.SetMetricSamplingStrategy(method.RANDOM)
        method.SetMetricSamplingPercentage(min(1.0, SAMPLES / fixed.size), 1337)
        method.SetInterpolator(sitk.sitkLinear)
        method.SetShrinkFactorsPerLevel([4, 2, 1])
        method.SetSmoothingSigmasPerLevel([2, 1, 0])
        method.SetInitialTransform(transform, inPlace=True)
        return method

    start = sitk.CenteredTransformInitializer(
        target, source, sitk.AffineTransform(3), sitk.CenteredTransformInitializerFilter.GEOMETRY
    )
    affine = sitk.AffineTransform(start)
    method = registration(affine)
    method.SetOptimizerAsRegularStepGradientDescent(1.0, 1e-4, 200)
    method.SetOptimizerScalesFromPhysicalShift()
    method.Execute(target, source)
    transform: sitk.Transform = affine
    if deformable:
        spline = sitk.BSplineTransformInitializer(target, [6, 6, 6], 3)
        method = registration(spline)
        method.SetMovingInitialTransform(affine)
        method.SetOptimizerAsLBFGSB(1e-5, 40)
        method.Execute(target, source)
        transform = sitk.CompositeTransform([affine, spline])
    carried = sitk.Resample(labels, target, transform, sitk.sitkNearestNeighbor, 0)
    return sitk.GetArrayFromImage(carried)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="dataset folder")
    parser.add_argument("--num_classes", type=int, default=2)
    parser.add_argument("--volumes", type=int, default=5, help="how many, spread over the training list")
    parser.add_argument("--cache", type=Path, required=True, help="empty folder for what the atlas computes")
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only ways of this name, as 'atlas'")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # of ANTs
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
    dataset = Dataset(arguments.root)
    names = dataset.names("train.txt")
    volumes = {name: dataset.load(name) for name in names}
    template = volumes[names[0]]
    compute, features, info = BuiltinFeatures(), {}, {}
    for name, volume in volumes.items():
        spatial, shape = compute(volume.image), volume.image.shape
        features[name] = VolumeFeatures(spatial, compute.global_feature(spatial), shape)
        info[name] = VolumeInfo(name, shape, content_hash(volume.image), None, volume.geometry)
    cohort = Cohort((names[0],), tuple(names[1:]), (), info)
    store = VolumeStore(dataset, names, "ram", torch.device("cpu"))
    access = CohortAccess(cohort, store, features, compute.key, arguments.num_classes)
    atlas = CohortAtlas(access, ArrayCache(arguments.cache), neighbors=5)
    chosen = [names[i] for i in np.unique(np.linspace(1, len(names) - 1, arguments.volumes).astype(int))]
    if arguments.only in CONSENSUS:  # the neighbors' own registrations count as time of their own volumes
        for name in {other for each in chosen for other in atlas.neighbors(each)} - set(chosen):
            atlas.registered(name)
    spacing = atlas.spacing(names[0])
    unit = structures(template.label, spacing).unit
    factors = [max(1, round(unit / length)) for length in spacing]

    def coarse_grid(image: np.ndarray) -> list[int]:
        return [-(-size // factor) for size, factor in zip(image.shape, factors, strict=True)]

    def reduced(name: str) -> np.ndarray:
        return cell_means(volumes[name].image, coarse_grid(volumes[name].image))

    def step(name: str) -> tuple[float, ...]:
        shape = volumes[name].image.shape
        return tuple(np.array(shape) / coarse_grid(volumes[name].image) * atlas.spacing(name))

    def pair(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, Steps]:
        return reduced(name), reduced(names[0]), coarse, (step(name), step(names[0]))

    grid = coarse_grid(template.label)
    shares = np.stack([cell_means(template.label == c, grid) for c in range(arguments.num_classes)])
    coarse = shares.argmax(axis=0).astype(np.uint8)

    def on_volume(label: np.ndarray, name: str) -> np.ndarray:
        one_hot = np.stack([label == c for c in range(arguments.num_classes)]).astype(np.float32)
        return resize(torch.from_numpy(one_hot), volumes[name].image.shape).argmax(0).numpy()

    def labeled(name: str, probabilities: np.ndarray) -> np.ndarray:
        return atlas.on_volume(name, probabilities).argmax(0).numpy()

    ways: dict[str, Callable[[str], np.ndarray]] = {
        "SimpleITK, affine": lambda n: on_volume(with_simpleitk(*pair(n), False), n),
        "SimpleITK, affine and B-spline": lambda n: on_volume(with_simpleitk(*pair(n), True), n),
        "ANTs, SyN": lambda n: on_volume(with_ants(*pair(n)), n),
        "atlas, every volume by itself": lambda n: labeled(n, atlas.registered(n).probabilities),
        CONSENSUS: lambda n: labeled(n, atlas.consensus(n)),
    }
    print(f"{len(chosen)} volumes of {arguments.root}, template {names[0]}, one core")
    print(f"{'way':44s}  {'Dice':>6s}  s per volume  Dice and median volume, relative to the true one, of each class")
    for way, label in ways.items():
        if arguments.only in way and (way != "ANTs, SyN" or importlib.util.find_spec("ants")):
            print(f"{way:44s}  {measure(label, [volumes[name] for name in chosen], arguments.num_classes)}", flush=True)


def measure(label: Callable[[str], np.ndarray], scans: list[Volume], num_classes: int) -> str:
    """Return a row of the table for a way to label the scans."""
    scores, ratios, seconds = [], [], []
    for scan in scans:
        started = time.process_time()
        predicted = label(scan.name)
        seconds.append(time.process_time() - started)
        scores.append(dice_per_class(predicted, scan.label, num_classes))
        sizes = [[(labels == c).sum() for c in range(1, num_classes)] for labels in (predicted, scan.label)]
        ratios.append(np.divide(sizes[0], np.maximum(sizes[1], 1)))
    per_class = zip(np.mean(scores, axis=0), np.median(ratios, axis=0), strict=True)
    classes = ", ".join(f"{dice:.3f} ({ratio:.2f})" for dice, ratio in per_class)
    return f"{np.mean(scores):6.4f}  {np.median(seconds):12.2f}  {classes}"


if __name__ == "__main__":
    main()
