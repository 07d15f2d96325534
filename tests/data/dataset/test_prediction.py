"""Labels and confidence of class probabilities."""

from __future__ import annotations

import torch

from semisam_o1.data.dataset.prediction import Prediction


def test_label_is_the_most_probable_class_and_ties_go_to_the_lower() -> None:
    probabilities = torch.tensor([[0.2, 0.4, 0.1], [0.5, 0.4, 0.1], [0.3, 0.2, 0.8]]).reshape(3, 1, 1, 3)
    prediction = Prediction.from_probabilities(probabilities)
    label, confidence = prediction.label, prediction.confidence
    assert label.dtype == confidence.dtype == "uint8"
    assert label.ravel().tolist() == [1, 0, 2]
    assert confidence.ravel().tolist() == [128, 102, 204]
