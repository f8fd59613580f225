"""The tests under other surroundings: what they find may not hang on the machine.

    python experiments/faults/surroundings.py            (each, one after the other)
    python experiments/faults/surroundings.py threads_4 mixed

Each is one run of the suite. A line says how it ended and how long it took.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Surroundings:
    """What differs from a plain run.

    Attributes:
        variables: environment variables; None takes one away.
        prepare: called in the new process before the tests start.
        before: a command that the tests are started by.
    """

    variables: dict[str, str | None] = field(default_factory=dict)
    prepare: Callable[[], object] | None = None
    before: tuple[str, ...] = ()


def _ignore_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _private_files() -> None:
    os.umask(0o077)


def _mixed() -> None:
    _ignore_interrupts()
    _private_files()


PLAIN = {"LC_ALL": "C", "LANG": "C"}
NOBODY = dict.fromkeys(("USER", "LOGNAME", "USERNAME"))
NARROW = {"COLUMNS": "20", "LINES": "5", "TERM": "dumb"}
FAR = {"TZ": "Pacific/Kiritimati"}
MEMORY = {"PYTHONMALLOC": "malloc", "MALLOC_PERTURB_": "165", "PYTHONHASHSEED": "7"}
HIDDEN = 'mount -t tmpfs -o ro,size=4k none /dev/shm && exec "$@"'
SURROUNDINGS = {
    "threads_unset": Surroundings(dict.fromkeys(THREADS)),
    **{f"threads_{n}": Surroundings(dict.fromkeys(THREADS, str(n))) for n in (1, 2, 4)},
    "mkl_avx2": Surroundings({"MKL_CBWR": "AVX2"}),
    "plain_kernels": Surroundings({"ATEN_CPU_CAPABILITY": "default"}),
    "sigint_ignored": Surroundings(prepare=_ignore_interrupts),
    "c_locale": Surroundings(PLAIN),
    "time_zone": Surroundings(FAR),
    "no_user_name": Surroundings(NOBODY),
    "other_disk": Surroundings({"TMPDIR": "/dev/shm"}),
    "umask_077": Surroundings(prepare=_private_files),
    "narrow_terminal": Surroundings(NARROW),
    "memory_and_hashes": Surroundings(MEMORY),
    # A mount of one's own needs the rights of the superuser.
    "no_shared_memory": Surroundings(before=("unshare", "--mount", "sh", "-c", HIDDEN, "sh")),
    "mixed": Surroundings(PLAIN | NOBODY | NARROW | FAR | MEMORY, prepare=_mixed),
}


def run(name: str, tests: list[str]) -> tuple[int, float, str]:
    """Exit code, seconds and last line of the tests under some surroundings."""
    chosen = SURROUNDINGS[name]
    changed = {**os.environ, **{k: v for k, v in chosen.variables.items() if v is not None}}
    environment = {k: v for k, v in changed.items() if chosen.variables.get(k, "") is not None}
    command = [sys.executable, "-m", "pytest", "--numprocesses=2", "--dist=loadfile", *tests]
    began = time.monotonic()
    ended = subprocess.run(
        [*chosen.before, *command], cwd=ROOT, env=environment, preexec_fn=chosen.prepare,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False,
    )  # fmt: skip
    log = Path(tempfile.gettempdir()) / f"surroundings-{name}.log"
    log.write_text(ended.stdout + ended.stderr, encoding="utf-8")
    lines = ended.stdout.strip().splitlines()
    return ended.returncode, time.monotonic() - began, lines[-1] if lines else f"see {log}"


def main() -> None:
    """Run the tests under the surroundings that are named, or under all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=", ".join(SURROUNDINGS))
    parser.add_argument("--tests", nargs="*", default=[], help="only these files")
    given = parser.parse_args()
    unknown = set(given.names) - SURROUNDINGS.keys()
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: must be one of {', '.join(SURROUNDINGS)}")
    wrong = 0
    for name in given.names or SURROUNDINGS:
        if SURROUNDINGS[name].before and not shutil.which(SURROUNDINGS[name].before[0]):
            print(f"{name}: not run, {SURROUNDINGS[name].before[0]} is missing", flush=True)
            continue
        code, seconds, line = run(name, given.tests)
        wrong += code != 0
        print(f"{name}: exit code {code}, {seconds:.0f} s, {line}", flush=True)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
