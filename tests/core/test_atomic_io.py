"""Files are written whole or not at all."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from semisam_o1.core.atomic_io import WriteError, replacing, write_json, write_text


@pytest.mark.parametrize("keep_suffix", [False, True])
def test_the_new_content_replaces_the_old_only_when_it_is_complete(keep_suffix: bool, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "scan.nii.gz"
    for content in ("old", "new"):
        with replacing(path, keep_suffix=keep_suffix) as partial:
            assert partial.name.endswith(".nii.gz") == keep_suffix
            partial.write_text(content)
            assert not path.exists() or path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(
    ("raised", "expected"), [(OSError(errno.ENOSPC, "full"), WriteError), (ValueError, ValueError)]
)
def test_a_failed_write_leaves_the_old_file_alone(raised: Exception, expected: type, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(expected), replacing(path) as partial:
        partial.write_text("half of")
        raise raised
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_writers_with_different_tags_do_not_share_a_temporary_file(tmp_path: Path) -> None:
    with replacing(tmp_path / "a", ".1") as first, replacing(tmp_path / "a", ".2") as second:
        assert first != second
        first.write_text("1")
        second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"


def test_json_ends_with_a_line_break(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"a": 1})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": 1\n}\n'
