"""DAN's discriminator: does a segmentation come from a labeled scan?

Zhang et al., "Deep Adversarial Networks for Biomedical Image Segmentation Utilizing Unannotated
Images", MICCAI 2017.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from semisam_o1.networks.cpu_layers import guard_small


class Discriminator(nn.Module):
    """(softmax (B, C, W, H, D), image (B, 1, W, H, D)) → logits (B, 2): unlabeled, labeled.

    Global average pooling before the linear layer allows any patch divisible by 16.
    """

    def __init__(self, num_classes: int, in_channels: int = 1, dropout: float = 0.5, width: int = 64):
        super().__init__()
        self.conv0 = nn.Conv3d(num_classes, width, 4, stride=2, padding=1)
        self.conv1 = nn.Conv3d(in_channels, width, 4, stride=2, padding=1)
        self.conv2 = nn.Conv3d(width, width * 2, 4, stride=2, padding=1)
        self.conv3 = nn.Conv3d(width * 2, width * 4, 4, stride=2, padding=1)
        self.conv4 = nn.Conv3d(width * 4, width * 8, 4, stride=2, padding=1)
        self.classifier = nn.Linear(width * 8, 2)
        self.dropout = nn.Dropout3d(dropout)

    def forward(self, probabilities: Tensor, image: Tensor) -> Tensor:
        x = self.conv0(probabilities) + self.conv1(image)
        x = self.dropout(F.leaky_relu(x, 0.2))
        for convolution in (self.conv2, self.conv3):
            x = self.dropout(F.leaky_relu(guard_small(convolution, x), 0.2))
        x = F.leaky_relu(guard_small(self.conv4, x), 0.2)
        return self.classifier(x.mean(dim=(2, 3, 4))).float()
