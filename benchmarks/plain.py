"""The method written straightforwardly, to compare with: PyTorch's own layers, float32, one thing at a time."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.ndimage import distance_transform_edt
from skimage.segmentation import find_boundaries
from torch import Tensor, nn
from torch.nn import functional as F

import code_path  # noqa: F401
from semisam_o1.methods import METHODS
from semisam_o1.methods.dan import Discriminator
from semisam_o1.networks import build_network
from semisam_o1.networks.layers import Dropout, InstanceNorm, MaxPool, Upsample


def network(name: str, classes: int, device: str) -> nn.Module:
    """Build a network of PyTorch's layers alone."""
    built = build_network(name, classes, generator=torch.Generator().manual_seed(0))
    for module in list(built.modules()):
        for key, child in module.named_children():
            if isinstance(child, Upsample):
                setattr(module, key, nn.Upsample(scale_factor=2, mode="trilinear"))
            elif isinstance(child, MaxPool):
                setattr(module, key, nn.MaxPool3d(2))
            elif isinstance(child, Dropout):
                setattr(module, key, nn.Dropout(child.p))
            elif isinstance(child, InstanceNorm):
                setattr(module, key, nn.InstanceNorm3d(child.num_features))
    return built.to(device).train()


class Step:
    """One iteration of a method on (image (2, 1, W, H, D), label (2, W, H, D)): the first item is labeled."""

    def __init__(self, method: str, classes: int, device: str, iterations: int = 15000):
        self.method, self.classes, self.iterations = method, classes, iterations
        self.student = network(METHODS[method].network, classes, device)
        self.teacher = copy.deepcopy(self.student)
        self.optimizer = torch.optim.SGD(self.student.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
        self.discriminator = Discriminator(classes).to(device)
        self.adam = torch.optim.Adam(self.discriminator.parameters(), lr=1e-4, betas=(0.9, 0.99))

    def __call__(self, image: Tensor, label: Tensor, t: int) -> float:
        output = self.student(image)
        logits = output[1] if self.method == "dtc" else output
        probabilities = logits.softmax(1)
        target = F.one_hot(label.long(), self.classes).movedim(-1, 1).float()
        loss = torch.zeros((), device=image.device)
        pseudo = min(1.0, t / (0.3 * self.iterations))
        for item, weight in ((slice(0, 1), 1.0), (slice(1, 2), pseudo)):
            ce = F.cross_entropy(logits[item], label[item].long())
            scale = 0.01 if self.method == "dtc" else 1.0
            classes = slice(1, None) if self.method == "dtc" else slice(None)  # DTC's: of every foreground class
            overlap = dice_loss(probabilities[item, classes], target[item, classes])
            loss = loss + 0.5 * weight * (scale * ce + overlap)
        if self.method == "dtc":
            distance, true = output[0][:, 1:], signed_distances(label, self.classes)
            implied = torch.sigmoid(-1500 * distance)
            for item, weight in ((slice(0, 1), 1.0), (slice(1, 2), pseudo)):
                loss = loss + weight * (distance[item] - true[item]).abs().mean()
                loss = loss + weight * dice_loss(implied[item], target[item, 1:])
            consistency = (implied - probabilities[:, 1:]).square().mean()
        else:
            consistency = self.consistency(probabilities[1:], image[1:], t)
        phase = 1 - min(t // 150, 200) / 200
        loss = loss + 0.1 * math.exp(-5 * phase**2) * consistency
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        for group in self.optimizer.param_groups:
            group["lr"] = 0.01 * (1 - t / self.iterations) ** 0.9
        if self.method in ("mt", "uamt"):
            decay = min(1 - 1 / (t + 1), 0.99)
            with torch.no_grad():
                for old, new in zip(self.teacher.parameters(), self.student.parameters(), strict=True):
                    old.mul_(decay).add_(new, alpha=1 - decay)
        if self.method == "dan":
            self.train_discriminator(image)
        return loss.item()

    def consistency(self, probabilities: Tensor, image: Tensor, t: int) -> Tensor:
        if self.method == "dan":
            verdict = self.discriminator(probabilities, image)
            return F.cross_entropy(verdict, torch.ones(1, dtype=torch.long, device=image.device))
        with torch.no_grad():
            target = self.teach(image)
            if self.method == "mt":
                return (probabilities - target).square().mean()
            mean = sum(self.teach(image) for _ in range(8)) / 8
            entropy = -(mean * torch.log(mean + 1e-6)).sum(1, keepdim=True)
            threshold = (0.75 + 0.25 * math.exp(-5 * (1 - t / self.iterations) ** 2)) * math.log(2)
            sure = (entropy < threshold).float()
        return (sure * (probabilities - target).square()).sum() / (2 * sure.sum() + 1e-16)

    def teach(self, image: Tensor) -> Tensor:
        noise = torch.clamp(torch.randn_like(image) * 0.1, -0.2, 0.2)
        return self.teacher(image + noise).softmax(1)

    def train_discriminator(self, image: Tensor) -> None:
        self.student.eval()
        with torch.no_grad():
            probabilities = self.student(image).softmax(1)
        self.student.train()
        loss = F.cross_entropy(self.discriminator(probabilities, image), torch.tensor([1, 0], device=image.device))
        self.adam.zero_grad()
        loss.backward()
        self.adam.step()


def dice_loss(probabilities: Tensor, target: Tensor) -> Tensor:
    axes = (0, 2, 3, 4)
    overlap = (probabilities * target).sum(axes)
    size = probabilities.square().sum(axes) + target.square().sum(axes)
    return (1 - (2 * overlap + 1e-5) / (size + 1e-5)).mean()


def signed_distances(label: Tensor, classes: int) -> Tensor:
    """(B, W, H, D) → (B, C − 1, W, H, D), by SciPy and scikit-image, mask by mask."""
    maps = np.zeros((len(label), classes - 1, *label.shape[1:]), np.float32)
    for item, array in enumerate(label.cpu().numpy()):
        for c in range(1, classes):
            mask = array == c
            if mask.all() or not mask.any():
                maps[item, c - 1] = -float(mask.all())
                continue
            inside, outside = distance_transform_edt(mask), distance_transform_edt(~mask)
            distance = outside / outside.max() - inside / inside.max()
            distance[find_boundaries(mask, mode="inner")] = 0
            maps[item, c - 1] = distance
    return torch.from_numpy(maps).to(label.device)


class Patches(torch.utils.data.Dataset):
    """Random oriented patches: opens, decompresses, turns, pads and crops a whole scan for each of them."""

    def __init__(self, paths: list[Path], patch: tuple[int, int, int]):
        self.paths, self.patch = paths, patch
        self.random = np.random.default_rng(1)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        with h5py.File(self.paths[index]) as file:
            image, label = file["image"][()], file["label"][()]
        turns, axis = self.random.integers(4), self.random.integers(2)
        image, label = (np.flip(np.rot90(array, turns), axis) for array in (image, label))
        padding = [
            (max((p - n) // 2 + 3, 0),) * 2 if n <= p else (0, 0) for n, p in zip(image.shape, self.patch, strict=True)
        ]
        image, label = np.pad(image, padding), np.pad(label, padding)
        start = [self.random.integers(n - p + 1) for n, p in zip(image.shape, self.patch, strict=True)]
        box = tuple(slice(a, a + p) for a, p in zip(start, self.patch, strict=True))
        return torch.from_numpy(image[box].astype(np.float32))[None], torch.from_numpy(label[box].copy())


def predict(student: nn.Module, volume: Tensor, patch: tuple[int, int, int], stride: int, classes: int) -> np.ndarray:
    """Return class probabilities (C, W, H, D): window after window, summed on the host in NumPy."""
    image = volume.numpy()
    padding = [
        ((p - n) // 2, p - n - (p - n) // 2) if n < p else (0, 0) for n, p in zip(image.shape, patch, strict=True)
    ]
    image = np.pad(image, padding)
    total, count = np.zeros((classes, *image.shape), np.float32), np.zeros(image.shape, np.float32)
    starts = [sorted({*range(0, n - p, stride), n - p}) for n, p in zip(image.shape, patch, strict=True)]
    device = next(student.parameters()).device
    for x in starts[0]:
        for y in starts[1]:
            for z in starts[2]:
                box = tuple(slice(a, a + p) for a, p in zip((x, y, z), patch, strict=True))
                with torch.no_grad():
                    window = student(torch.from_numpy(image[box][None, None]).to(device)).softmax(1)
                total[(slice(None), *box)] += window[0].cpu().numpy()
                count[box] += 1
    total /= count
    inner = tuple(slice(a, n - b) for (a, b), n in zip(padding, image.shape, strict=True))
    return total[(slice(None), *inner)]
