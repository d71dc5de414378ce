"""Files that a job that Ctrl-C ends does not leave."""

import pytest

from jaxface import interrupts


def test_temporary_files_are_removed_unless_they_were_moved(tmp_path):
    first, second, place = (tmp_path / name for name in ("first", "second", "place"))
    with pytest.raises(KeyboardInterrupt), interrupts.temporary(first, second):
        first.write_text("a")
        second.write_text("b")
        second.replace(place)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["place"]


def test_a_process_that_ends_at_once_removes_them(tmp_path):
    with interrupts.temporary(tmp_path / "open", tmp_path / "never made"):
        (tmp_path / "open").write_text("a")
        interrupts.remove_temporary_files()
        assert not list(tmp_path.iterdir())
