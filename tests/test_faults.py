"""A small part of `make faults`: one step at every point, a few damaged files of each kind."""

import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.parametrize("arguments, tries", [(["faults.py", "evaluate"], 15), (["fuzz.py", "30"], 90)])
def test_faults_and_damaged_files_end_cleanly(arguments, tries):
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / arguments[0]), *arguments[1:]],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0 and done.stdout.splitlines()[-1] == f"{tries} passed, 0 failed", done.stdout
