"""Fetches the npm packages of drawings and names, at pinned versions, and verifies them."""

import base64
import hashlib
import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Package:
    """One npm package at one version, with the hash that its archive must have."""

    name: str
    """npm name, such as "@iconify-json/noto"."""
    version: str
    """Exact version."""
    integrity: str
    """Subresource-integrity string of the archive: "sha512-" and the base64 digest."""

    @property
    def archive(self) -> str:
        """File name that `npm pack` gives the archive."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True)
class Vendor:
    """One style of drawing."""

    title: str
    """Name of the emoji set, for the attribution."""
    author: str
    """Whom to credit."""
    licence: str
    """SPDX identifier of the drawings' licence."""
    package: Package


VENDORS: dict[str, Vendor] = {
    "noto": Vendor(
        "Noto Emoji",
        "Google LLC",
        "Apache-2.0",
        Package(
            "@iconify-json/noto",
            "1.2.9",
            "sha512-DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        ),
    ),
    "noto-v1": Vendor(
        "Noto Emoji, first generation",
        "Google LLC",
        "Apache-2.0",
        Package(
            "@iconify-json/noto-v1",
            "1.2.5",
            "sha512-/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        ),
    ),
    "fluent": Vendor(
        "Fluent Emoji, flat",
        "Microsoft Corporation",
        "MIT",
        Package(
            "@iconify-json/fluent-emoji-flat",
            "1.2.6",
            "sha512-RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        ),
    ),
    "twemoji": Vendor(
        "Twemoji",
        "Twitter, Inc and other contributors",
        "CC-BY-4.0",
        Package(
            "@iconify-json/twemoji",
            "1.2.5",
            "sha512-uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        ),
    ),
    "emojione": Vendor(
        "EmojiOne",
        "EmojiOne (JoyPixels, Inc.)",
        "CC-BY-4.0",
        Package(
            "@iconify-json/emojione",
            "1.2.3",
            "sha512-T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        ),
    ),
    "openmoji": Vendor(
        "OpenMoji",
        "HfG Schwäbisch Gmünd and contributors",
        "CC-BY-SA-4.0",
        Package(
            "@iconify-json/openmoji",
            "1.2.29",
            "sha512-vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        ),
    ),
}

PERMISSIVE = ("noto", "noto-v1", "fluent")
"""Vendors whose drawings may be shipped with the package; the others may only be built locally."""

NAMES = Package(
    "emojibase-data",
    "17.0.0",
    "sha512-Yvgb5AWoHViHV/gq1qr5ZAarcBip+B27/ZLRsUJkbgAEaLlZ/fof9g882LTpmEpyhBNEC0m2SEmItljHsTygjA==",
)
"""CLDR labels, tags, groups and subgroups in English."""


def fetch(package: Package, cache: Path) -> Path:
    """Returns the package's archive under `cache`, fetched with `npm pack` where it is missing, and always verified.

    Raises:
        ValueError: the archive does not have the pinned hash.
        subprocess.CalledProcessError: npm failed; its own message is on stderr.
    """
    archive = cache / package.archive
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = ["npm", "pack", "--silent", "--pack-destination", str(cache), f"{package.name}@{package.version}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    verify(archive, package.integrity)
    return archive


def verify(archive: Path, integrity: str) -> None:
    """Raises ValueError unless the file's SHA-512 equals `integrity` ("sha512-" and the base64 digest)."""
    actual = "sha512-" + base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    if actual != integrity:
        raise ValueError(
            f"{archive} has integrity {actual}, but {integrity} is pinned; delete the file and run again, "
            "and distrust the source if it happens twice"
        )


def read_json(archive: Path, member: str) -> Any:
    """Returns the parsed JSON file `member` (a path inside the package) of an npm archive."""
    with tarfile.open(archive) as files:
        stream = files.extractfile(f"package/{member}")
        assert stream is not None, f"{member} in {archive} is not a file"
        return json.load(stream)
