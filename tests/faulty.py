"""`python tests/faulty.py ...`: the command line with a fault in it, which only tests have.

`FAULT=RANK:STEP:KIND` says which process, before the update of which step, and what: `kill`,
`raise`, `hang`, `nan`, or `stop` (SIGTERM to itself; `stop2` sends two). `FAULT_TIMEOUT` are the
seconds that a collective waits.
"""

import os
import signal
import sys
import time
from datetime import timedelta
from typing import Any

from tdro_lightning.cli import main
from tdro_lightning.distributed import processes
from tdro_lightning.training import optim, tdro


def met(kind: str) -> None:
    """Meet the fault, and say when."""
    print(f"fault met at {time.monotonic()}", flush=True)
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "raise":
        raise RuntimeError("the device is gone")
    if kind == "hang":
        while True:
            time.sleep(1)
    for _ in range({"stop": 1, "stop2": 2}.get(kind, 0)):
        os.kill(os.getpid(), signal.SIGTERM)


def install() -> None:
    """Put the fault of the environment in its place."""
    if "FAULT_TIMEOUT" in os.environ:
        processes.TIMEOUT = timedelta(seconds=float(os.environ["FAULT_TIMEOUT"]))
    if "FAULT" not in os.environ:
        return
    ranks, at, kind = os.environ["FAULT"].split(":")
    if str(processes.rank()) not in ranks.split(","):
        return
    update, losses = optim.Optimisation.update, tdro.TDROModule.reference_losses

    def faulty_update(self: Any, optimiser: Any, parameters: Any, step: int) -> Any:
        if step == int(at):
            met(kind)
        return update(self, optimiser, parameters, step)

    def faulty_losses(self: Any, batch: Any) -> Any:
        found = losses(self, batch)
        return found * float("nan") if self.global_step == int(at) else found

    optim.Optimisation.update = faulty_update  # type: ignore[method-assign]
    if kind == "nan":
        tdro.TDROModule.reference_losses = faulty_losses  # type: ignore[method-assign]


if __name__ == "__main__":
    install()
    sys.argv[0] = "tdro_lightning"
    main()
