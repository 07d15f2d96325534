"""DTC: a predicted segmentation and a predicted signed distance map of its boundary agree.

Luo et al., "Semi-supervised Medical Image Segmentation through Dual-task Consistency", AAAI 2021,
https://arxiv.org/abs/2009.04448. Extended to one distance map per foreground class.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from semisam_o1.data.sampling.batches import Batch
from semisam_o1.data.sampling.fields import signed_distances
from semisam_o1.methods.base import LossTerm, Method
from semisam_o1.methods.losses import cross_entropy, dice_loss, one_hot, squared_difference

STEEPNESS = 1500  # of the sigmoid that turns a distance into a mask
CE_SCALE = 0.01


class DTC(Method):
    network = "unet_3D_sdf"
    voxel_bytes = (730, 1190)
    class_bytes = 55  # with its distance maps
    steep = ("implied_dice", "consistency")

    def losses(self, student: nn.Module, batch: Batch, t: int) -> dict[str, LossTerm]:
        distance, logits = student(batch.image)
        distance = distance[:, 1:]  # the channel of the background is not trained
        implied = torch.sigmoid(-STEEPNESS * distance)
        probabilities = logits.softmax(1)[:, 1:]
        truth = one_hot(batch.label, self.options.num_classes)[:, 1:]
        true_distance = signed_distances(batch.label, self.options.num_classes)
        terms = {}
        for name, items, weight in self.label_sources(batch, t):
            voxel_weight = batch.voxel_weight(items)
            ce = cross_entropy(logits[items], batch.label[items], voxel_weight)
            terms[f"{name}_ce"] = LossTerm(ce, 0.5 * CE_SCALE * weight)
            terms[f"{name}_dice"] = LossTerm(dice_loss(probabilities[items], truth[items], voxel_weight), 0.5 * weight)
            terms[f"{name}_distance"] = LossTerm((distance[items] - true_distance[items]).abs().mean(), weight)
            terms[f"{name}_implied_dice"] = LossTerm(dice_loss(implied[items], truth[items], voxel_weight), weight)
        agreement: Tensor = squared_difference(implied, probabilities).mean()
        terms["consistency"] = LossTerm(agreement, self.consistency_weight(t))
        return terms
