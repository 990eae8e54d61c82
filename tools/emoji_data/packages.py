"""Fetch the registry packages that the emoji set is made from, and check them against recorded hashes."""

from __future__ import annotations

import base64
import hashlib
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

__all__ = ["CLDR_DERIVED", "CLDR_NAMES", "PICTURES", "Package", "fetch"]


@dataclass(frozen=True)
class Package:
    """A pinned npm package, with the SHA-512 of its archive in base64, as npm prints it."""

    name: str
    version: str
    archive: str
    sha512: str


PICTURES = Package(
    "emoji-datasource-google",
    "16.0.0",
    "emoji-datasource-google-16.0.0.tgz",
    "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
)
CLDR_NAMES = Package(
    "cldr-annotations-full",
    "48.2.0",
    "cldr-annotations-full-48.2.0.tgz",
    "DV7A+rEcgUSNTRsVGNGqBZRmAkGfwhGHO5Q1dRwzBoBnVrHWp804JP7/QJdEc66iHmx3+zLWVIMCFLm0lW7PUQ==",
)
CLDR_DERIVED = Package(
    "cldr-annotations-derived-full",
    "48.2.0",
    "cldr-annotations-derived-full-48.2.0.tgz",
    "log62km+AOzI7n/NEuNNFV0mg9DWnt67EYCh1RwxZq9dyRuyteB586LT83Ke8TchEfnwI9cIk2P31zO4nTvZmw==",
)


def fetch(package: Package, work: Path) -> Path:
    """Download, verify and unpack one package; an archive from an earlier run is reused.

    Parameters
    ----------
    package : Package
        Package to fetch.
    work : Path
        Folder for archives and unpacked packages, created if missing.

    Returns
    -------
    Path
        Folder of the package's files.

    Raises
    ------
    ValueError
        If the archive's hash is not the recorded one; nothing is unpacked then.
    """
    work.mkdir(parents=True, exist_ok=True)
    archive = work / package.archive
    if not archive.exists():
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
        subprocess.run(command, cwd=work, check=True)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if digest != package.sha512:
        raise ValueError(f"{archive} has SHA-512 {digest}, recorded is {package.sha512}: delete it and run again")
    folder = work / f"{package.name}-{package.version}"
    with tarfile.open(archive) as tarball:
        tarball.extractall(folder, filter="data")
    return folder / "package"
