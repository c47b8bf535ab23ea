import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from pyro_sri.scripts import main, demo
assert "torch" not in sys.modules, "too late for OpenMP's settings"
sys.argv = ["pyro-sri", "--version"]
main.main()
print(os.environ["OMP_WAIT_POLICY"])
"""


@pytest.mark.parametrize(("chosen", "policy"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_of_commands_wait_passively_unless_told_otherwise(chosen: dict[str, str], policy: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"} | chosen
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1] == policy
