"""The demo as a stranger runs it, on the session's engine: every cheat is convicted, nobody honest is."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from retally.devnet.tools import repo_root

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(420)]


def run_demo(engine_url: str, *arguments: str) -> dict[str, Any]:
    """The object on the demo's last line."""
    command = [sys.executable, str(repo_root() / "scripts" / "demo_story.py"), "--engine-url", engine_url, *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: dict[str, Any] = json.loads(ended.stdout.strip().splitlines()[-1])
    return found


class TestDemo:
    def test_convicts_each_kind_of_cheat_and_pays_the_payer_back(self, engine_url: str) -> None:
        report = run_demo(engine_url, "--cheat", "weights,sampler,prompt", "--jobs", "48")

        assert report["dispute"] == {"verdict": "mismatch", "jurors": 3, "cases": 3}
        assert report["slashed"] > 0
        assert report["refunded"] > 0
        assert report["audits"]["match"] > 0
        assert report["receipt_ok"]
        assert report["supply_conserved"]
        assert report["audit_points_agree"]

    def test_ends_without_a_case_when_all_are_honest(self, engine_url: str) -> None:
        report = run_demo(engine_url, "--cheat", "none", "--json")

        assert report["dispute"] == {"verdict": None, "jurors": 0, "cases": 0}
        assert report["audits"]["match"] > 0
        assert report["audits"]["mismatch"] == report["audits"]["inconclusive"] == 0
        assert report["slashed"] == report["refunded"] == 0
        assert report["supply_conserved"]
