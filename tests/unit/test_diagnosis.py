"""Reports: what a supervisor writes of itself."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from interceptor import diagnosis

if TYPE_CHECKING:
    from pathlib import Path


def test_two_reports_in_one_second_are_two_files(tmp_path: Path) -> None:
    paths = {diagnosis.report(tmp_path, "dump", lambda: {"containers": []}) for _ in range(2)}
    assert sorted(paths) == sorted((tmp_path / "reports").iterdir())
    assert [json.loads(path.read_text())["containers"] for path in paths] == [[], []]
