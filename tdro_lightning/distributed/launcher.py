"""torchrun, with the exit code of what it runs; called by `-m`, as torchrun would be.

torchrun itself ends with 1, whether a process fails with a code of its own or SIGTERM stops the run
in good order.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

STARTED_BY = "TDRO_STARTED_BY"  # environment variable: the process with which this one ends
POLL = 0.5  # seconds between two looks at it
TO_SAVE = "120"  # seconds for a checkpoint after SIGTERM; torchrun's own default is 30


def run_torchrun(arguments: Sequence[str]) -> int:
    """Run what torchrun would with these arguments; the exit code of the first that failed.

    It is 128 and a signal's number where that ended it, and where that stopped the launcher.
    """
    os.environ.setdefault("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", TO_SAVE)
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if STARTED_BY in os.environ:
        threading.Thread(target=_follow, args=(int(os.environ[STARTED_BY]),), daemon=True).start()
    try:
        run.run(run.parse_args(list(arguments)))
    except SignalException as stopped:
        return 128 + int(stopped.sigval)
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode >= 0:
            return int(failure.exitcode)
        message = f"rank {rank} was killed by {signal.Signals(-failure.exitcode).name}"
        print(f"error: {message}", file=sys.stderr, flush=True)
        code = 128 - int(failure.exitcode)
        _correct_status(arguments, message, code)
        return code
    return 0


def _correct_status(arguments: Sequence[str], message: str, code: int) -> None:
    """Write how the run ended, which a killed process cannot and the others do not know."""
    from tdro_lightning.files import read_json, write_json
    from tdro_lightning.records.outputs import STATUS

    folders = [Path(a.partition("=")[2]) for a in arguments if a.startswith("run_dir=")]
    for path in (folder / STATUS for folder in folders[-1:]):
        if path.is_file():
            again = "the same command resumes from the last checkpoint, if there is one"
            ended = {"status": "failed", "exit_code": code, "reason": message, "next": again}
            write_json(path, read_json(path) | ended)


def _follow(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(run_torchrun(sys.argv[1:]))
