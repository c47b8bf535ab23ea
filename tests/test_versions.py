"""The versions of Python and of the dependencies that the project promises are said alike everywhere, and hold."""

import configparser
import os
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
SETUP = configparser.ConfigParser()
SETUP.read(ROOT / "setup.cfg")
PYTHONS = re.findall(r"Python :: (3\.\d+)", SETUP["metadata"]["classifiers"])
AUDIT = runpy.run_path(str(ROOT / "tools" / "audit.py"))


def test_the_supported_pythons_are_said_alike() -> None:
    assert [f"3.{minor}" for minor in range(11, 11 + len(PYTHONS))] == PYTHONS
    assert SETUP["options"]["python_requires"] == f">={PYTHONS[0]}"
    (line,) = re.findall(r"^PYTHONS +\?= (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert line.split() == [f"python{version}" for version in PYTHONS]
    assert f"Python {PYTHONS[0]} to {PYTHONS[-1]}" in (ROOT / "README.md").read_text()


def test_the_checkers_read_the_code_as_the_oldest_python_does() -> None:
    # ruff refuses newer syntax then, and mypy what the standard library did not have.
    assert tomllib.loads((ROOT / "ruff.toml").read_text())["target-version"] == "py" + PYTHONS[0].replace(".", "")
    assert SETUP["mypy"]["python_version"] == PYTHONS[0]


def test_the_oldest_versions_tested_are_the_lowest_promised() -> None:
    extras = SETUP["options.extras_require"]
    lines = SETUP["options"]["install_requires"] + extras["physics"] + extras["cluster"]
    promised = [Requirement(line) for line in lines.split("\n") if line]
    assert [str(r) for r in promised if not re.fullmatch(r">=[\d.]+", str(r.specifier))] == []
    lowest = {r.name: str(r.specifier).removeprefix(">=") for r in promised if r.name != "torch"}
    assert AUDIT["read_pins"]((ROOT / "constraints-oldest.txt").read_text()) == lowest


def test_the_versions_of_record_keep_the_promises() -> None:
    pins = AUDIT["read_pins"]((ROOT / "constraints.txt").read_text())
    for line in filter(None, SETUP["options"]["install_requires"].split("\n")):
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins[requirement.name]), line


def run(code: str) -> str:
    """Standard output of a Python that has no home directory and cannot reach the network."""
    hermit = (
        "import socket, sys\n"
        "def refuse(*_): raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
    )
    home = {"HOME": os.devnull, "XDG_CACHE_HOME": os.devnull, "XDG_CONFIG_HOME": os.devnull}
    done = subprocess.run(
        [sys.executable, "-P", "-c", hermit + code], env=os.environ | home, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_the_package_is_light() -> None:
    loaded = set(run("import pyro_sri; print(*sys.modules)").split())
    assert "pyro_sri" in loaded
    assert (
        loaded & {"h5py", "matplotlib", "mujoco", "numpy", "pyro", "scipy", "sklearn", "tensorboard", "torch"} == set()
    )


def test_every_module_is_imported_without_what_is_optional() -> None:
    code = f"""
import importlib, pkgutil
sys.modules["mujoco"] = None  # as if it were not installed
for name in {SETUP["options"]["packages"].split()}:
    package = importlib.import_module(name)
    for module in pkgutil.iter_modules(package.__path__, name + "."):
        importlib.import_module(module.name)
        print(module.name)
"""
    modules = run(code).split()
    assert {"pyro_sri.data.physics", "pyro_sri.models.scene", "pyro_sri.scripts.main"} <= set(modules)


def test_an_audit_names_each_fault() -> None:
    pins = AUDIT["read_pins"]("# pins\nGood_One==1.0\nloose>=2\nstale==1.0\ntorch==2.0  # a build\n")
    assert pins == {"good-one": "1.0", "loose": "", "stale": "1.0", "torch": "2.0"}
    required = {"good-one", "loose", "torch", "missing"}
    installed = {"pip": "1", "good-one": "1.1", "loose": "2.1", "stale": "1.0", "torch": "2.0+cpu", "stray": "1"}
    licences = {"good-one": "MIT AND GPL-3.0-only", "torch": "Apache-2.0 WITH LLVM-exception AND BSL-1.0"}
    assert AUDIT["complaints"](pins, required, installed, licences) == [
        "loose is not pinned to one version (name==version)",
        "missing is required, but not pinned",
        "stale is pinned, but nothing requires it",
        "stale is installed, but nothing requires it",
        "stray is installed, but nothing requires it",
        "good-one is pinned to 1.0, but 1.1 is installed",
        "good-one: the licence 'MIT AND GPL-3.0-only' is not known to be permissive",
    ]


@pytest.mark.parametrize(
    ("licence", "permissive"),
    [
        ("MIT License", True),
        ("Apache-2.0 OR BSD-2-Clause", True),
        ("(MIT AND Zlib) OR PSF-2.0", True),
        ("GNU General Public License v3 (GPLv3)", False),
        ("LicenseRef-NVIDIA-Proprietary", False),
        ("none", False),
    ],
)
def test_licences_are_read_part_by_part(licence: str, permissive: bool) -> None:
    assert AUDIT["is_permissive"](licence) is permissive


def test_tensorboard_starts_without_what_new_setuptools_lack() -> None:
    """Its viewer, on the run directories that training leaves."""
    code = "import sys; sys.modules['pkg_resources'] = None; from tensorboard import main; print('started')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "started" in done.stdout, done.stderr


@pytest.mark.parametrize("code", ["import pyro_sri.runs", "import pyro_sri.data.generators.pieces"])
def test_other_systems_than_posix_are_told_plainly(code: str) -> None:
    """Windows has no fcntl."""
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['fcntl'] = None; {code}"], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].startswith("ImportError: this package needs a POSIX system, such as Linux")


def test_commands_on_other_systems_are_one_plain_line() -> None:
    code = "import sys; sys.modules['fcntl'] = None; from pyro_sri.scripts.main import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("pyro-sri: this package needs a POSIX system")
    assert "Operating System :: POSIX" in SETUP["metadata"]["classifiers"]
