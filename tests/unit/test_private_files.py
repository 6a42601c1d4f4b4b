"""Files of the client's own: for nobody else, and shared by its processes without taking each other's locks."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from retally.job_history import JobHistory
from retally.private_files import make_private
from retally.spending import DailySpending

OTHER = "import sys; from pathlib import Path; from {module} import {name}; {name}(Path(sys.argv[1])).close()"


def test_is_made_for_its_owner_alone_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "file"
    make_private(path)
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    path.write_text("kept")
    path.chmod(0o640)
    make_private(path)
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("kept", 0o640)


@pytest.mark.parametrize("make", [JobHistory, DailySpending])
def test_another_process_leaves_what_two_of_ours_have_open(tmp_path: Path, make: Callable[[Path], Any]) -> None:
    """The second of ours opens the file too: closing it to no purpose would have freed the first one's locks."""
    path = tmp_path / "shared.sqlite"
    ours = [make(path) for _ in range(2)]
    code = OTHER.format(module=make.__module__, name=make.__name__)
    for _ in range(2):
        subprocess.run([sys.executable, "-c", code, str(path)], check=True)
        third = make(path)
        third._db.execute("CREATE TABLE IF NOT EXISTS probe (n INTEGER)")
        third._db.execute("INSERT INTO probe VALUES (1)")
        third.close()
    (count,) = ours[0]._db.execute("SELECT count(*) FROM probe").fetchone()
    assert count == 2
    for each in ours:
        each.close()
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
