"""Settings that are restored from their file, or refused."""

from __future__ import annotations

import pytest

from semisam_o1.core.errors import InputError
from semisam_o1.data.preparation.settings import Preparation


def test_settings_come_back_from_json() -> None:
    settings = Preparation(
        "LPS", (1.0, 2.0, 3.0), (0, 1, 2, 3, 4, 5), 3.0, "window", (-10.0, 90.0), {3: 1}, 0, "nearest", 2
    )
    assert Preparation.from_json(settings.to_json(), "x") == settings
    assert Preparation.from_json(Preparation().to_json(), "x") == Preparation()
    for wrong in ({"spacing": [0, 1, 1]}, {"orientation": "XYZ"}, {"labels": {"a": 1}}, {"labels": 3}):
        with pytest.raises(InputError, match="x holds no settings"):
            Preparation.from_json(wrong, "x")
