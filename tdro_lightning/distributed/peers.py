"""Processes that end together: what one of them meets is known to all within seconds.

Nothing here is a collective. A thread of each process looks at the launcher's key-value store, into
which the first one that fails writes why.
"""

import json
import logging
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from tdro_lightning.errors import PeerError, RunStopped
from tdro_lightning.secrets import mask_secrets

POLL = 0.5  # seconds between two looks
TO_FOLLOW = 8.0  # seconds in which a process ends by itself after another one has failed
TO_SAVE = 120.0  # seconds in which it ends by itself, with a checkpoint, after its launcher
ANSWER = timedelta(seconds=10)  # of the store
LOST = re.compile("gloo|NCCL|onnection|imed out|roken pipe")  # in errors of collectives

logger = logging.getLogger(__name__)

_peers: "_Peers | None" = None  # while the processes of a run watch each other


@contextmanager
def end_together(rank: int) -> Iterator[None]:
    """End this process soon after another one fails, or after the launcher has gone.

    The process group is there. A process that hangs, which the others see by a collective that
    times out, says where it stands.

    Args:
        rank: this process's number.

    Raises:
        PeerError: in place of the error of a collective, what another process has met.
    """
    global _peers
    _peers = peers = _Peers(rank)
    try:
        with peer_errors():
            yield
    except RunStopped:  # in good order, on all ranks
        raise
    except BaseException as error:
        peers.report(error)
        raise
    finally:
        _peers = None
        peers.over.set()


@contextmanager
def peer_errors() -> Iterator[None]:
    """Raise, in place of the error of a collective, what another process has met.

    A run's record is written by it, so that it says the same as the command.

    Raises:
        PeerError: with the other process's message and exit code, as far as it could leave them.
    """
    try:
        yield
    except RuntimeError as error:
        if _peers is None or not LOST.search(str(error)):
            raise
        logger.info("a collective failed", exc_info=True)
        reason = str(error).strip().partition("\n")[0]
        first = _peers.report(error)
        raise PeerError(*(first or (f"it lost another process ({reason})", 1))) from None


class _Peers:
    def __init__(self, rank: int) -> None:
        from torch.distributed import TCPStore  # type: ignore[attr-defined]

        self.rank = rank
        self.over = threading.Event()
        self._key = f"tdro_lightning/failed/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        self._store = TCPStore(host, port, wait_for_workers=False, timeout=ANSWER)
        self._seen: tuple[str, int] | None = None
        self._main = threading.main_thread().ident
        self._parent = os.getppid()
        threading.Thread(target=self._watch, name="peers", daemon=True).start()

    def report(self, error: BaseException) -> tuple[str, int] | None:
        """Say why this process fails, unless another one was first: then what that one said."""
        line = str(error).strip().partition("\n")[0]
        message = f"rank {self.rank} failed: {type(error).__name__}: {line}"
        own = {"rank": self.rank, "message": message, "code": getattr(error, "code", None) or 1}
        try:
            first = json.loads(self._store.compare_set(self._key, "", json.dumps(own)))
        except RuntimeError:  # the store has gone with the process that kept it
            return self._seen
        if self.rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            time.sleep(2 * POLL)  # the store goes with this process, so the others read it first
        return None if first["rank"] == self.rank else (first["message"], first["code"])

    def _watch(self) -> None:
        while not self.over.wait(POLL):
            if os.getppid() != self._parent:
                self._say("its launcher has gone, so it stops")
                os.kill(os.getpid(), signal.SIGTERM)
                self._end_within(TO_SAVE, 128 + signal.SIGTERM)
                return
            try:
                failure = self._failure()
            except RuntimeError:
                failure = {"message": "the process that keeps the store has ended", "code": 1}
            if failure is not None and os.getppid() == self._parent:
                self._seen = failure["message"], failure["code"]
                self._say(f"it ends, as {failure['message']}", failure["message"])
                self._end_within(TO_FOLLOW, failure["code"])
                return

    def _failure(self) -> dict[str, Any] | None:
        """What another process has failed with."""
        if not self._store.check([self._key]):
            return None
        failure: dict[str, Any] = json.loads(self._store.get(self._key))
        return None if failure["rank"] == self.rank else failure

    def _say(self, message: str, reason: str = "") -> None:
        stack = traceback.extract_stack(sys._current_frames()[self._main])  # type: ignore[index]
        joining = any("torch/distributed" in frame.filename for frame in stack)
        hangs = "imed out" in reason and not joining
        level = logging.ERROR if hangs else logging.INFO
        logger.log(level, "%s\n%s", message, "".join(traceback.format_list(stack)))
        text = f"error: rank {self.rank}: {message}"
        if hangs:
            text += f"; it hangs at {stack[-1].filename}:{stack[-1].lineno}, in {stack[-1].name}"
        with suppress(OSError, ValueError):  # nobody may be there to read it
            print(mask_secrets(text), file=sys.stderr, flush=True)

    def _end_within(self, seconds: float, code: int) -> None:
        if not self.over.wait(seconds):
            os._exit(code)
