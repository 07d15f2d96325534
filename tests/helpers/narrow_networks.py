"""Networks with few channels, for tests of everything around them."""

from __future__ import annotations

from functools import partial

import pytest

from semisam_o1.methods import dan
from semisam_o1.methods.dan import Discriminator
from semisam_o1.networks import unet3d


def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Build every U-Net and discriminator with few channels."""
    monkeypatch.setattr(unet3d, "WIDTHS", (4, 4, 6, 6, 8))
    monkeypatch.setattr(dan, "Discriminator", partial(Discriminator, width=8))
