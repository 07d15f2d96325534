"""The sliding window with trivial predictors on odd shapes, and against recorded label maps."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from golden_inputs import fill, golden, volume
from semisam_o1.core.device import OutOfMemorySafeBatcher
from semisam_o1.data.dataset.prediction import Prediction
from semisam_o1.evaluation import sliding_window as sliding_window_module
from semisam_o1.evaluation.decision import shifted
from semisam_o1.evaluation.sliding_window import Predictor, resized, sliding_window, window_starts
from semisam_o1.networks import build_network
from semisam_o1.refinement.pseudo_labels import mean_entropy

SHAPES = [(9, 13, 7), (4, 5, 3), (5, 2, 20), (1, 1, 1)]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return fill(build_network("unet_3D", 2)).eval()


@pytest.mark.parametrize("case", range(4))
def test_label_maps_match_the_recorded_ones(case: int, network: nn.Module) -> None:
    recorded = {key: golden("inference.npz")[f"{case}/{key}"] for key in ("shape", "seed", "stride", "label_map")}
    scan = volume(recorded["shape"], int(recorded["seed"]))
    probabilities = sliding_window(scan, lambda x: network(x).softmax(1), 32, int(recorded["stride"]))
    assert (Prediction.from_probabilities(probabilities).label != recorded["label_map"]).mean() <= 1e-4


@pytest.mark.parametrize("name", ["v1", "v2"])
def test_pseudo_labels_and_uncertainty_match_the_recorded_ones(name: str, network: nn.Module) -> None:
    recorded = golden("inference.npz")
    scan = volume(recorded[f"pseudo_shape/{name}"], int(recorded[f"pseudo_seed/{name}"]))
    stride = int(recorded["pseudo_stride"])
    probabilities = sliding_window(scan, lambda x: network(x).softmax(1), recorded["patch_size"].tolist(), stride)
    assert (Prediction.from_probabilities(probabilities).label != recorded[f"pseudo/{name}"]).mean() <= 1e-4
    assert mean_entropy(probabilities) == pytest.approx(float(recorded[f"uncertainty/{name}"]), abs=1e-5)


def class_of_value(windows: Tensor) -> Tensor:
    """Tell a voxel's class from its own value."""
    return torch.cat([windows == c for c in range(3)], dim=1).float()


def class_of_place(windows: Tensor) -> Tensor:
    """Return a function of the place in the window and of the value."""
    place = torch.arange(windows[0].numel(), dtype=torch.float32).reshape(windows.shape[1:])
    return torch.cat([windows + place, windows - place], dim=1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("patch", "stride"), [(4, 3), (4, 4), ((3, 5, 4), (1, 2, 4))])
def test_a_predictor_that_ignores_the_place_comes_back_exactly(shape, patch, stride) -> None:
    scan = torch.from_numpy(np.random.RandomState(1).randint(0, 3, shape))
    probabilities = sliding_window(scan, class_of_value, patch, stride)
    assert probabilities.shape == (3, *shape)
    assert torch.equal(probabilities, class_of_value(scan[None, None])[0])


def test_windows_start_at_multiples_of_the_stride_and_end_flush() -> None:
    assert window_starts(10, 4, 3) == [0, 3, 6]
    assert window_starts(11, 4, 3) == [0, 3, 6, 7]
    assert window_starts(9, 4, 4) == [0, 4, 5]
    assert window_starts(4, 4, 2) == [0]
    for size in range(4, 30):
        for stride in range(1, 5):
            starts = window_starts(size, 4, stride)
            assert {start + i for start in starts for i in range(4)} == set(range(size))
            assert len(set(starts)) == len(starts)


def test_overlapping_windows_are_averaged() -> None:
    seen = []

    def number(windows: Tensor) -> Tensor:
        numbers = torch.arange(1.0, len(windows) + 1) + len(seen)
        seen.extend(windows)
        return numbers.view(-1, 1, 1, 1, 1).expand_as(windows)

    average = sliding_window(torch.zeros(6, 4, 4), number, 4, 2)
    assert len(seen) == 2
    assert average[0, :, 0, 0].tolist() == [1, 1, 1.5, 1.5, 2, 2]


def test_short_axes_are_padded_with_zeros_floor_half_in_front() -> None:
    seen = []

    def look(windows: Tensor) -> Tensor:
        seen.append(windows[0, 0, :, 0, 0].tolist())
        return torch.arange(5.0).reshape(1, 1, 5, 1, 1).expand_as(windows)

    places = sliding_window(torch.tensor([7.0, 8.0]).reshape(2, 1, 1), look, (5, 1, 1), 1)
    assert seen == [[0, 7, 8, 0, 0]]
    assert places.flatten().tolist() == [1, 2]


@pytest.mark.parametrize("most", [1, 150, 10_000])
def test_windows_are_joined_up_to_a_limit_and_give_the_same(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = volume((9, 13, 7), 4)
    expected = sliding_window(scan, class_of_place, 4, (3, 2, 1))
    monkeypatch.setitem(OutOfMemorySafeBatcher.MAX_ELEMENTS, "cpu", most)
    counts = []

    def counted(windows: Tensor) -> Tensor:
        counts.append(len(windows))
        return class_of_place(windows)

    assert torch.equal(sliding_window(scan, counted, 4, (3, 2, 1)), expected)
    assert max(counts) == max(1, min(most // 64, sum(counts)))


def test_where_the_gpu_is_full_sums_lie_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    zeros, asked = torch.zeros, []

    def full(*args, device=None, **keywords) -> Tensor:
        if device is not None:
            asked.append(device)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return zeros(*args, **keywords)

    scan = volume((6, 5, 7), 4)
    expected = sliding_window(scan, class_of_place, 4, 3)
    monkeypatch.setattr(torch, "zeros", full)
    assert torch.equal(sliding_window(scan, class_of_place, 4, 3), expected)
    assert asked == [torch.device("cpu")]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int16, np.uint8])
def test_array_in_array_out_and_tensor_in_tensor_out(dtype: type) -> None:
    scan = np.random.RandomState(2).randint(0, 3, (5, 6, 7)).astype(dtype)
    from_array = sliding_window(scan, class_of_value, 4, 2)
    from_tensor = sliding_window(torch.from_numpy(scan), class_of_value, 4, 2)
    assert isinstance(from_array, np.ndarray)
    assert isinstance(from_tensor, Tensor)
    assert from_array.dtype == np.float32
    np.testing.assert_array_equal(from_array, from_tensor.numpy())


def test_no_gradient_is_kept() -> None:
    weight = torch.ones(1, requires_grad=True)
    assert not sliding_window(torch.zeros(4, 4, 4), lambda x: x * weight, 4, 4).requires_grad


@pytest.mark.parametrize("stride", [5, 0, (4, 4, 5), (0, 1, 1)])
def test_strides_that_leave_gaps_are_refused(stride) -> None:
    with pytest.raises(ValueError, match="stride must lie between 1 and the patch"):
        sliding_window(torch.zeros(8, 8, 8), class_of_value, 4, stride)


def test_a_volume_with_channels_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(1, 8, 8, 8\)"):
        sliding_window(torch.zeros(1, 8, 8, 8), class_of_value, 4, 4)


@pytest.mark.parametrize("shape", [(21, 17, 30), (9, 1, 40)])
def test_the_mean_of_predictions_at_several_sizes(network: nn.Module, shape: tuple[int, int, int]) -> None:
    scan = volume(shape, 3)

    def alone(*zooms: float, bias: tuple[float, ...] | None = None) -> Tensor:
        return Predictor(network, (32, 32, 32), (16, 16, 16), "fp32", bias, zooms)(scan)

    assert torch.equal(alone(1.0), sliding_window(scan, lambda x: network.logits(x).softmax(1), 32, 16))
    assert alone(0.7).shape == (2, *shape)
    assert not torch.allclose(alone(0.7), alone(1.0), atol=1e-3)
    torch.testing.assert_close(alone(0.7, 1.0, 1.3), (alone(0.7) + alone(1.0) + alone(1.3)) / 3)
    zero = alone(0.7, 1.0, bias=(0.0, 1.0))[1] / (1 - alone(0.7, 1.0, bias=(0.0, 1.0))[1])
    torch.testing.assert_close(zero, alone(0.7, 1.0)[1] / alone(0.7, 1.0)[0] * np.e, rtol=1e-3, atol=1e-4)


def test_a_structure_stays_in_its_place_at_another_size() -> None:
    ramp = torch.arange(20.0).expand(2, 4, 5, 20)
    there_and_back = resized(resized(ramp, (4, 5, 30)), (4, 5, 20))
    torch.testing.assert_close(there_and_back[..., 2:-2], ramp[..., 2:-2])


def test_sizes_for_which_a_gpu_has_no_room_beside_the_others_change_nothing(
    network: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor, scan = Predictor(network, (32,) * 3, (32,) * 3, "fp32", (0.0, 0.5), (1.0, 1.2)), volume((20, 21, 22), 5)
    expected, at, interpolate, short = predictor(scan), Predictor._at, F.interpolate, []

    def once(kind: str) -> None:
        if kind not in short:
            short.append(kind)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    def at_size(self: Predictor, image: Tensor, zoom: float) -> Tensor:
        if zoom != 1:
            once("windows")
        return at(self, image, zoom)

    monkeypatch.setattr(Predictor, "_at", at_size)
    monkeypatch.setattr(F, "interpolate", lambda *args, **sizes: once("interpolation") or interpolate(*args, **sizes))
    monkeypatch.setattr(sliding_window_module, "shifted", lambda *args: once("decision") or shifted(*args))
    assert torch.equal(predictor(scan), expected)
    assert short == ["windows", "interpolation", "decision"]
