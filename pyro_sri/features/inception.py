"""Features of the Inception network, for the Fréchet Inception distance (Heusel et al. 2017).

The network is not part of this package. It is read from a TorchScript file, which contains code that runs when the file
is read and called. Use only a file that you trust.
"""

import hashlib
import http.client
import urllib.request
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pyro_sri.features.cache import cache_folder
from pyro_sri.features.extraction import to_8_bits
from pyro_sri.system.errors import UserError
from pyro_sri.system.files import from_home, write_atomically

# NVIDIA's conversion of the original network to TorchScript, 95,607,719 bytes, and its published sha256.
URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"
SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
BYTES = 95_607_719

TIMEOUT_SECONDS = 10.0  # without a response


class InceptionFeatures:
    """Features of the last pooling layer, computed by a TorchScript file.

    The file is a module that takes images uint8 [B, 3, H, W] in 0..255, converts them to the size and range of its
    network itself, and returns features [B, 2048]. If its forward has an argument `return_features`, it is set to True.
    Images are clipped and rounded to 8 bits, not truncated.

    Args:
        path: The file. Its code is run, so it must come from someone you trust.

    Attributes:
        name: `inception-v3-pool3-2048-` and the first 8 digits of the file's sha256.
        size: 2048.

    Raises:
        UserError: If the file cannot be read, is not a TorchScript file, or does not meet these conditions.
    """

    size = 2048

    def __init__(self, path: Path | str):
        path = from_home(path)
        try:
            digest = _sha256(path)
        except OSError as error:
            raise UserError(f"cannot read {path}: {error.strerror}; name a TorchScript file of Inception") from None
        self.name = f"inception-v3-pool3-{self.size}-{digest[:8]}"
        self._network = _load(path)
        arguments = self._network.forward.schema.arguments
        takes_flag = any(argument.name == "return_features" for argument in arguments)
        self._options = {"return_features": True} if takes_flag else {}
        self._check(path)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W] in [0, 1] -> [B, 2048], on the images' device.

        Raises:
            ValueError: Images of another shape, or not finite.
        """
        features: Tensor = self._network.to(images.device)(to_8_bits(images), **self._options)
        return features

    def _check(self, path: Path) -> None:
        try:
            features = self(torch.zeros(2, 3, 64, 64))
            fits = features.shape == (2, self.size) and features.is_floating_point()
        except Exception:  # foreign code can fail in any way
            fits = False
        if not fits:
            raise UserError(
                f"{path} is not an Inception network: it must map images uint8 [B, 3, H, W] to [B, {self.size}]"
            )


def find_inception(path: Path | None = None, download: bool = False) -> Path | None:
    """The TorchScript file of Inception: the user's, or else the one in the cache, or else downloaded into the cache.

    Only the file with the known sha256 is downloaded or taken from the cache. The user may give any file.

    Args:
        path: The user's file, if any.
        download: Whether it may be downloaded (96 MB).

    Returns:
        The file, or None if it is not available.

    Raises:
        UserError: If the user's file does not exist.
    """
    if path is not None:
        if not path.is_file():
            raise UserError(f"there is no file {path}; name a TorchScript file of Inception")
        return path
    kept = cache_folder() / Path(URL).name
    try:
        if _sha256(kept) == SHA256:
            return kept
    except OSError:
        pass  # not there
    return kept if download and _download(kept) else None


def _download(path: Path) -> bool:
    """Whether the file is at `path` now."""
    try:
        with urllib.request.urlopen(URL, timeout=TIMEOUT_SECONDS) as response:
            content = response.read(BYTES + 1)
    except (OSError, http.client.HTTPException):  # no network, no such file, or cut off
        return False
    if hashlib.sha256(content).hexdigest() != SHA256:
        return False
    try:
        write_atomically(path, lambda file: file.write(content))
    except UserError:  # a full or read-only disk
        return False
    return True


def _load(path: Path) -> Any:
    try:
        with warnings.catch_warnings():
            # Its replacement cannot read the file.
            warnings.filterwarnings("ignore", r"`torch\.jit\.load` is deprecated", DeprecationWarning)
            return torch.jit.load(path, map_location="cpu").eval()
    except Exception:  # a damaged file can fail in many ways
        raise UserError(f"{path} is not a TorchScript file, or is damaged; download it again") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
