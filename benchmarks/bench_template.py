#!/usr/bin/env python3
"""How much the choice of the template matters: pseudo-label Dice of round 0 with each of many templates.

Every scan of train.txt needs a label here, to score with. Prints the Dice of each template beside its place in the
ranking of suggest_template.py, and the suggested one against the mean, best and worst.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "code"))

from semisam_o1.data.volumes import Dataset
from semisam_o1.evaluation.metrics import dice_per_class
from semisam_o1.propagation.atlas import AtlasPropagation, Scan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="dataset folder")
    parser.add_argument("--num_classes", type=int, default=2)
    parser.add_argument("--every", type=int, default=1, help="try every n-th scan of the ranking as template")
    parser.add_argument("--out", type=Path, required=True, help="JSON file, gone on with where it exists")
    arguments = parser.parse_args()
    dataset = Dataset(arguments.root)
    names = dataset.names("train.txt")
    volumes = {name: dataset.load(name) for name in names}
    done = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for template in names[:: arguments.every]:
        if template in done:
            continue
        atlas = AtlasPropagation([(Scan(volumes[template].image), volumes[template].label)], arguments.num_classes)
        scores = {
            name: dice_per_class(
                atlas.label(Scan(volumes[name].image)).label, volumes[name].label, arguments.num_classes
            )
            for name in names
            if name != template
        }
        done[template] = {name: float(np.mean(score)) for name, score in scores.items()}
        arguments.out.write_text(json.dumps(done))
        print(template, f"{np.mean(list(done[template].values())):.4f}", flush=True)


if __name__ == "__main__":
    main()
