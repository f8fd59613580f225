"""What a run shows while it works: a live view on a terminal, plain lines elsewhere.

Long work logs at INFO what it does. Where nothing has been printed for some seconds, a line repeats
the last message; on a terminal it stands in the live view. Output that nobody reads any more (a
closed pipe, a terminal that is gone) does not end a run.
"""

import logging
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from tdro_lightning.console.screen import fold
from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.secrets import mask_secrets

logger = logging.getLogger(__name__)

QUIET = 3.0  # seconds without a line, after which one comes: on a busy machine, within five
FRAME = 0.25  # seconds between two looks at the clock, or two pictures of the live view

# Held while something is written, and by a process that forks: a child never inherits it taken.
# (Rich's own refresh thread has no such lock, so the thread below draws rich's live view.)
_lock = threading.RLock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


class Display(logging.Handler):
    """The state of what is shown, and the thread that shows it; not started, it prints only.

    Attributes:
        title: put before what is being done.
        view: what the live view shows; None for what is being done.
        live: rich's live view; None elsewhere than on a terminal.
    """

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.title = ""
        self.view: Callable[[], Any] | None = None
        self.live: Any = None
        self._status, self._since = "starting", time.monotonic()
        self._printed = self._since
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._refresh, name="display", daemon=True)

    def start(self) -> None:
        """Show from now on."""
        dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")
        if sys.stdout is not None and sys.stdout.isatty() and not dumb:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(), auto_refresh=False, transient=True)
            self.live.start()
        logging.getLogger("tdro_lightning").addHandler(self)
        self._thread.start()

    def is_started(self) -> bool:
        """Whether the thread shows what is being done."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Show no longer; the terminal is left as it was."""
        self._ended.set()
        self._thread.join()
        logging.getLogger("tdro_lightning").removeHandler(self)
        with self._output():
            self._end_live()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a log message as what is being done; a warning is something else."""
        if record.levelno < logging.WARNING:
            self.set_status(record.getMessage())

    def set_status(self, status: str) -> None:
        """Set what is being done from now on."""
        self._status, self._since = status, time.monotonic()

    def write(self, text: str, folded: bool = True) -> None:
        """Print a text, above the live view where there is one; folded on a terminal only."""
        with self._output():
            if folded and sys.stdout is not None and sys.stdout.isatty():
                text = fold(text, shutil.get_terminal_size().columns)
            self._printed = time.monotonic()
            if self.live is None:
                print(text, flush=True)
            else:
                from rich.text import Text

                self.live.console.print(Text(text), soft_wrap=True)

    def _refresh(self) -> None:
        while not self._ended.wait(FRAME):
            line = f"{self.title}: {self._status}, {time.monotonic() - self._since:.0f} s"
            with _lock:
                if self.live is not None:
                    self._draw(line)
                elif time.monotonic() - self._printed >= QUIET:
                    self.write(line)

    def _draw(self, line: str) -> None:
        from rich.text import Text

        view = self.view
        picture = view() if view else Text(line, overflow="ellipsis", no_wrap=True)
        with self._output():
            self.live.update(picture, refresh=True)

    @contextmanager
    def _output(self) -> Iterator[None]:
        """Hold the lock; from the first error of the output on, nothing is shown any more."""
        with _lock:
            try:
                yield
            except (OSError, ValueError):  # closed at the other end, or here
                with suppress(OSError, ValueError):
                    self._end_live()
                _discard_output()

    def _end_live(self) -> None:
        live, self.live = self.live, None
        if live is not None:
            live.stop()


_display = Display()
_warnings: list[list[str]] = []  # of the runs in progress, those of the innermost run last


@contextmanager
def live_output() -> Iterator[None]:
    """Show what is being done inside the block, in the first process of a run."""
    global _display
    if _display.is_started() or not is_first_process():
        yield
        return
    _display.start()
    try:
        yield
    finally:
        _display.stop()
        _display = Display()


@contextmanager
def run_title(title: str) -> Iterator[None]:
    """Put a title before what is shown; a view set inside ends with it."""
    before, _display.title = _display.title, title
    try:
        yield
    finally:
        _display.title, _display.view = before, None


def tell(text: str, folded: bool = True) -> None:
    """Print a text, secrets masked, in the first process of a run only.

    Args:
        text: on a terminal its lines are broken at spaces.
        folded: False for commands, which one copies as they are.
    """
    if is_first_process():
        _display.write(mask_secrets(text), folded)


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Collect what a run warns of inside; a run within it, such as a chain's step, has its own."""
    warnings: list[str] = []
    _warnings.append(warnings)
    try:
        yield warnings
    finally:
        _warnings.pop()


def note_warning(text: str) -> None:
    """Warn of what may have spoilt a run: in the log, and among the run's warnings."""
    logger.warning("%s", text)
    if _warnings and text not in _warnings[-1]:
        _warnings[-1].append(text)


def withdraw_warning(text: str) -> None:
    """Take a warning off the run's list: it holds no longer. The log keeps it."""
    if _warnings and text in _warnings[-1]:
        _warnings[-1].remove(text)
        logger.info("no longer: %s", text)


def show_status(status: str) -> None:
    """Say what is being done, where it is shown."""
    _display.set_status(mask_secrets(status))


def show(view: Callable[[], Any] | None) -> None:
    """Let the live view show what a function draws for rich; None shows what is being done."""
    _display.view = view


def is_live() -> bool:
    """Whether there is a live view now."""
    return _display.live is not None


def accept_any_output() -> None:
    """Print `?` for what the output's encoding lacks, and nothing where the output is closed."""
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        if stream is None:  # started with it closed: the next file opened would take its number
            os.dup2(os.open(os.devnull, os.O_RDWR), number)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


def flush_output() -> None:
    """Write what is still held back, if anybody reads it."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except (OSError, ValueError):
        _discard_output()


def _discard_output() -> None:
    """Send what is printed from now on nowhere: nobody reads it."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends
