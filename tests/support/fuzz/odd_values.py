"""Values that a file may hold and nobody expects, by name."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from support.fuzz.outcomes import MARKER


def _named(values: Iterable[object], others: Mapping[str, Any]) -> dict[str, Any]:
    """Values whose names are what they look like, and others."""
    return {str(value): value for value in values} | dict(others)


# In YAML

YAML: dict[str, str] = _named(
    [
        *("~", "[]", "{}", "[1, 2]", "{a: 1}", "yes", "0", "-1", "3", "1e3", "1e400", "-1e-400", ".nan", ".inf"),
        *("-.inf", "0x_", "0b", "1:60:60", "2020-99-99", "2020-01-01", "1_000", "0o17", "!!int x", "!!float x"),
        *("!!bool x", "!!binary '?'", "!!timestamp x", "!!null x", "!!set {a, b}", "!!omap [a: 1]", "!unknown x"),
        *("!!python/name:os.system", "!!merge <<", "&a [*a]", "*a", "&a 5", '"\\e[2J"', '"\\u2028"', "'\\x1b[2J'"),
        *("? a", "2147483648", "4097", "1000000000000", "100000"),
    ],
    {
        "nothing": "",
        "5000 hexadecimal digits": "0x" + "f" * 5000,
        "400 digits": "9" * 400,
        "5000 digits": "9" * 5000,
        "a command": f"!!python/object/apply:os.system ['touch {MARKER}']",
        "100000 letters": "'" + "x" * 100_000 + "'",
        "two lines": "|\n  text\n  more",
        "10000 lists unclosed": "[" * 10_000,
        "2000 mappings unclosed": "{a: " * 2000,
        "400 lists": "[" * 400 + "]" * 400,
        "a byte order mark": "\ufeff1",
        "a tab": "\t1",
    },
)
LINES = {
    "a document begins": "---\n",
    "a document ends": "...\n",
    "another version": "%YAML 9.9\n",
    "a zero byte": "# \x00\n",
    "a line separator": "\u2028\n",
    "a merge": "<<: {a: 1}\n",
}


def _aliases(first: str, later: str, last: str) -> str:
    """Nine lines, each of which stands for ten of the one before."""
    lines = [f"a0: &a0 {first}"]
    lines += [f"a{i}: &a{i} {later.format(', '.join([f'*a{i - 1}'] * 10))}" for i in range(1, 9)]
    return "\n".join(lines) + f"\n{last}: *a8\n"


BOMBS = {
    "lists of lists": _aliases("[x, x, x, x, x, x, x, x, x, x]", "[{}]", "steps"),
    "mappings of mappings": _aliases("{x: 1}", "{{<<: [{}]}}", "<<"),
}

# In JSON

JSON: dict[str, Any] = _named(
    [None, True, "text", [], [1, 2], {}, {"a": 1}, 1e300, -1e308, float("nan"), float("inf"), -5, 0, 1e39, "$\\frac{$"],
    {
        "a script": "<script>alert(1)</script>",
        "no text": "",
        "400 digits": 10**400,
        "30 digits": 10**30,
        "1000 digits as text": "9" * 1000,
        "an escape sequence": "\x1b[2J",
    },
)
JSON_NAMES: dict[str, str] = _named(
    [
        *("mse", "mse_stderr", "training_seed", "count_2_found_2", "count_9999_found_1", "data", "seed"),
        *("kl_$", "step", "frechet_features", "frechet", "val_nll", "nll"),
    ],
    {"5000 letters": "x" * 5000, "a script": "<script>alert(1)</script>", "nothing": "", "Chinese": "kl_\u4e2d"},
)
JSON_TEXTS = {
    "a list": "[]",
    "null": "null",
    "a number": "5",
    "a text": '"text"',
    "100000 lists unclosed": '{"mse": ' + "[" * 100_000,
    "5000 digits": '{"mse": ' + "9" * 5000 + "}",
    "numbers out of range": '{"mse": 1e999, "nll": -1e-999}',
}

# In checkpoints

NUMBERS: dict[str, Any] = _named(
    [None, -1, 2.5, np.nan, True, [3], 10**12, {}, torch.tensor(3), torch.tensor([3, 4])],
    {"text": "3", "400 digits": 10**400},
)
Alteration = Callable[[torch.Tensor], object]
TENSORS: dict[str, Alteration] = {
    "one axis more": lambda tensor: tensor[None],
    "one number less": lambda tensor: tensor.reshape(-1)[:-1],
    "a number": lambda tensor: tensor.new_zeros(()),
    "empty": lambda tensor: tensor.new_zeros(0),
    "float64": lambda tensor: tensor.double(),
    "float16": lambda tensor: tensor.half(),
    "int32": lambda tensor: tensor.to(torch.int32),
    "bool": lambda tensor: tensor > 0,
    "complex": lambda tensor: tensor.to(torch.complex64),
    "sparse": lambda tensor: tensor.float().to_sparse(),
    "meta": lambda tensor: tensor.to("meta"),
    "quantised": lambda tensor: torch.quantize_per_tensor(tensor.float(), 0.1, 0, torch.qint8),
    "float8": lambda tensor: tensor.float().to(torch.float8_e4m3fn),
    "huge, of one number": lambda tensor: torch.zeros(1).expand(10**6, 10**6),
    "expanded": lambda tensor: torch.zeros(()).expand(tensor.shape),
    "long and empty": lambda tensor: torch.zeros(10**9, 0),
    "nan": lambda tensor: torch.full(tensor.shape, torch.nan),
    "infinite": lambda tensor: torch.full(tensor.shape, torch.inf),
    "minus infinite": lambda tensor: torch.full(tensor.shape, -torch.inf),
    "a list": lambda tensor: tensor.tolist(),
    "None": lambda tensor: None,
    "5": lambda tensor: 5,
    "a dictionary": lambda tensor: {"a": tensor},
    "text": lambda tensor: "text",
    "nested": lambda tensor: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]),
}
