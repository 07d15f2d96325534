"""HD95 and ASD of a good prediction of left-atrium size: by points of the surface, against medpy's distance maps.

python benchmarks/bench_metrics.py
"""

from __future__ import annotations

import argparse

from medpy.metric import binary

import scans
import timing
from semisam_o1.evaluation.metrics import segmentation_metrics


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    print(timing.machine())
    truth = scans.atrium(0)[1]
    prediction = scans.good_prediction(truth, 1)

    def by_medpy() -> tuple[float, float]:
        return binary.hd95(prediction, truth), binary.asd(prediction, truth)

    def here() -> dict[str, float]:
        return segmentation_metrics(prediction, truth)

    blobs = scans.blobs(2)
    plain, ours = timing.medians(
        lambda: (binary.hd95(blobs, truth), binary.asd(blobs, truth)),
        lambda: segmentation_metrics(blobs, truth), repeats=1,
    )  # fmt: skip
    timing.say("the same of a prediction that is wrong everywhere", plain, ours)
    plain, ours = timing.medians(by_medpy, here, repeats=arguments.repeats)
    found = here()
    difference = max(abs(a - b) for a, b in zip(by_medpy(), (found["hd95"], found["asd"]), strict=True))
    timing.say(f"HD95 and ASD, {scans.SHAPE} voxels, Dice {found['dice']:.3f}", plain, ours)
    print(f"largest difference {difference:.1e}; the time here includes Dice and Jaccard")


if __name__ == "__main__":
    main()
