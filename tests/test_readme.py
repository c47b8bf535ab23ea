"""What the README and the minimal script show runs."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_the_twelve_lines_run(capsys: object) -> None:
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert code is not None
    namespace: dict[str, object] = {}
    exec(code.group(1), namespace)
    assert namespace["scenes"].shape == (1, 4, 3, 32, 32)


def test_the_minimal_script_runs() -> None:
    script = ROOT / "scripts" / "svi_minimal.py"
    assert len(script.read_text().splitlines()) < 60
    done = subprocess.run([sys.executable, script, "--num-steps", "3"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "attention_masks" in done.stdout
    assert "sampled scenes: (1, 8, 3, 32, 32)" in done.stdout


def test_relative_links_lead_somewhere() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        for link in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


def test_nothing_is_left_to_fill_in() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md")):
        assert not re.search(r"@[A-Z]+@", page.read_text()), page.name


def test_importing_the_package_sets_no_global_state() -> None:
    code = """
import sys
import pyro
import torch

def state():
    validate = torch.distributions.Distribution._validate_args
    return torch.get_default_dtype(), torch.is_grad_enabled(), validate, dict(pyro.settings.get())

before, draws = state(), torch.get_rng_state()
import pyro_sri, pyro_sri.official, pyro_sri.scripts.main
from pyro_sri.scripts import data, evaluate, report, sample, visualize
assert not {"lightning_fabric", "torch._dynamo"} & sys.modules.keys(), "only training takes these seconds"
import pyro_sri.training.loop
assert before == state()
assert torch.equal(draws, torch.get_rng_state())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_packages_land_under_one_name() -> None:
    import pyro_sri.guides
    import pyro_sri.models
    import pyro_sri.scripts

    for package in (pyro_sri.models, pyro_sri.guides, pyro_sri.scripts):
        assert package.__name__.startswith("pyro_sri.")
    site_packages = Path(pyro_sri.__file__).parent.parent
    if site_packages.name == "site-packages":
        assert not any((site_packages / name).exists() for name in ("models", "guides", "scripts"))
