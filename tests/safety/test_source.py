"""What no line of the package may do: run what it reads, or hand text to a shell."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(path for folder in ("pyro_sri", "scripts", "models", "guides") for path in (ROOT / folder).rglob("*.py"))
SHELLS = frozenset({"system", "popen", "getoutput", "getstatusoutput", "create_subprocess_shell"})
UNPICKLERS = frozenset({"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"})
PLAIN_YAML = frozenset(
    {"safe_load", "safe_dump", "SafeLoader", "YAMLError", "MappingNode", "ScalarNode", "SequenceNode"}
)
# A TorchScript file is a program: InceptionFeatures says so, and takes it from the user or by its sha256.
PROGRAMS = {"pyro_sri/features/inception.py": 1}


def offences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and reason of everything forbidden in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] + [getattr(node, "module", None) or ""]
            yield from ((node.lineno, f"imports {name}") for name in names if name.split(".")[0] in UNPICKLERS)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "yaml" and node.attr not in PLAIN_YAML:
            yield node.lineno, f"yaml.{node.attr} may make objects"
        if isinstance(node, ast.Call):
            yield from ((node.lineno, reason) for reason in _offences_of_call(node))


def _offences_of_call(call: ast.Call) -> Iterator[str]:
    name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
    owner = ast.unparse(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    options = {option.arg: ast.unparse(option.value) for option in call.keywords}
    if not owner and name in ("eval", "exec", "compile", "__import__"):
        yield f"{name} runs text"
    if name in SHELLS or options.get("shell", "False") != "False":
        yield f"{name} calls a shell"
    if owner == "subprocess" and not isinstance(call.args[0], ast.List | ast.Call | ast.Name):
        yield "a program is called by a text, not by a list of arguments"
    if owner == "torch" and name == "load" and options.get("weights_only") != "True":
        yield "torch.load without weights_only=True runs code"
    if owner in ("np", "numpy") and name in ("load", "fromfile", "loads") and options.get("allow_pickle") != "False":
        yield f"{owner}.{name} without allow_pickle=False"
    if owner in ("torch.jit", "torch.hub", "torch.package") and name.startswith("load"):
        yield "a program is loaded"
    if owner and name in ("extractall", "extract", "unpack_archive"):
        yield "an archive is unpacked: its members may be named ../.."
    if owner == "tempfile" and name == "mktemp":
        yield "a temporary name that someone else may take"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_line_runs_what_it_reads(path: Path) -> None:
    found = list(offences(ast.parse(path.read_text())))
    assert len(found) == PROGRAMS.get(str(path.relative_to(ROOT)), 0), found


@pytest.mark.parametrize(
    "line",
    [
        *("import pickle", "from joblib import load", "from pickle import loads", "eval('1')", "exec(text)"),
        *("os.system('ls')", "os.popen(x)", "subprocess.run('ls', shell=True)", "run(['ls'], shell=yes)"),
        *("subprocess.run('ls')", "subprocess.check_output(f'ls {x}')", "torch.load(path)", "yaml.load(text)"),
        *("torch.load(path, weights_only=False)", "yaml.load(text, Loader=Mine)", "yaml.unsafe_load(text)"),
        *("yaml.load(text, yaml.FullLoader)", "np.load(path)", "np.load(path, allow_pickle=True)", "torch.jit.load(p)"),
        *("zipfile.ZipFile(p).extractall()", "tar.extract(m)", "shutil.unpack_archive(p)", "tempfile.mktemp()"),
        *("__import__(name)", "torch.hub.load(a, b)"),
    ],
)
def test_the_search_finds(line: str) -> None:
    assert list(offences(ast.parse(line)))
