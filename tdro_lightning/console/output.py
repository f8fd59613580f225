"""What a run shows while it works: a live view on a terminal, plain lines elsewhere.

Long work logs at INFO what it does. Where nothing has been printed for some seconds, a line repeats
the last message; on a terminal it stands in the live view. Output that nobody reads any more (a
closed pipe, a terminal that is gone) does not end a run.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tdro_lightning.distributed.processes import is_first_process
from tdro_lightning.secrets import mask_secrets

logger = logging.getLogger(__name__)

QUIET = 3.0  # seconds without a line, after which one comes: on a busy machine, within five
FRAME = 0.25  # seconds between two looks at the clock, or two pictures of the live view

# Held while something is written, and by a process that forks: a child never inherits it taken.
_lock = threading.RLock()
os.register_at_fork(
    before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release
)


class Display(logging.Handler):
    """The state of what is shown, and the thread that shows it."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.title = ""
        self.view: Callable[[], Any] | None = None
        self.live: Any = None
        self._status, self._since = "starting", time.monotonic()
        self._printed = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, name="display", daemon=True)

    def start(self) -> None:
        """Show from now on."""
        if is_terminal():
            self.live = _live()
        logging.getLogger("tdro_lightning").addHandler(self)
        self._thread.start()

    def stop(self) -> None:
        """Show no longer; the terminal is left as it was."""
        self._done.set()
        self._thread.join()
        logging.getLogger("tdro_lightning").removeHandler(self)
        self._end_live()

    def emit(self, record: logging.LogRecord) -> None:
        """Take a log message as what is being done."""
        self.set_status(record.getMessage())

    def set_status(self, status: str) -> None:
        """Say what is being done."""
        self._status, self._since = status, time.monotonic()

    def write(self, text: str) -> None:
        """Print a text, above the live view where there is one."""
        with _lock:
            self._printed = time.monotonic()
            if self.live is None:
                _write(text)
                return
            from rich.text import Text

            try:
                self.live.console.print(Text(text), soft_wrap=True)
            except OSError:
                self._end_live()
                discard_output()

    def line(self) -> str:
        """What is being done, and for how long."""
        seconds = time.monotonic() - self._since
        return f"{self.title}: {self._status}, {seconds:.0f} s"

    def _look(self) -> None:
        while not self._done.wait(FRAME):
            with _lock:
                if self.live is not None:
                    self._draw()
                elif time.monotonic() - self._printed >= QUIET:
                    self.write(self.line())

    def _draw(self) -> None:
        from rich.text import Text

        view = self.view
        try:
            self.live.update(view() if view else Text(self.line(), overflow="ellipsis"))
            self.live.refresh()
        except OSError:
            self._end_live()
            discard_output()

    def _end_live(self) -> None:
        with _lock:
            live, self.live = self.live, None
            if live is not None:
                try:
                    live.stop()
                except OSError:
                    discard_output()


_display: Display | None = None
_noted: list[list[str]] = []  # warnings of the runs in progress, those of the innermost run last


@contextmanager
def live_output() -> Iterator[None]:
    """Show what is being done inside the block, in the first process of a run."""
    global _display
    if _display is not None or not is_first_process():
        yield
        return
    _display = Display()
    _display.start()
    try:
        yield
    finally:
        _display.stop()
        _display = None


@contextmanager
def run_title(title: str) -> Iterator[None]:
    """Put a title before what is shown; a view set inside ends with it."""
    if _display is None:
        yield
        return
    before, _display.title = _display.title, title
    try:
        yield
    finally:
        if _display is not None:
            _display.title, _display.view = before, None


def tell(text: str) -> None:
    """Print a text, secrets masked, in the first process of a run only."""
    if not is_first_process():
        return
    text = mask_secrets(text)
    if _display is None:
        with _lock:
            _write(text)
    else:
        _display.write(text)


@contextmanager
def collect_warnings() -> Iterator[list[str]]:
    """Collect what a run warns of inside; a run within it, such as a chain's step, has its own."""
    found: list[str] = []
    _noted.append(found)
    try:
        yield found
    finally:
        _noted.pop()


def note_warning(text: str) -> None:
    """Warn of what may have spoilt a run: in the log, and among the run's warnings."""
    logger.warning("%s", text)
    if _noted and text not in _noted[-1]:
        _noted[-1].append(text)


def withdraw_warning(text: str) -> None:
    """Take a warning off the run's list: it holds no longer. The log keeps it."""
    if _noted and text in _noted[-1]:
        _noted[-1].remove(text)
        logger.info("no longer: %s", text)


def show_status(status: str) -> None:
    """Say what is being done, for whoever watches."""
    if _display is not None:
        _display.set_status(mask_secrets(status))


def show(view: Callable[[], Any] | None) -> None:
    """Let the live view show what a function draws for rich; None shows what is being done."""
    if _display is not None:
        _display.view = view


def is_live() -> bool:
    """Whether there is a live view now."""
    return _display is not None and _display.live is not None


def is_terminal() -> bool:
    """Whether the output is a terminal that can be drawn on."""
    dumb = os.environ.get("TERM", "dumb") in ("dumb", "unknown", "")
    return sys.stdout is not None and sys.stdout.isatty() and not dumb


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
        discard_output()


def discard_output() -> None:
    """Send what is printed from now on nowhere: nobody reads it."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError, AttributeError):
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - until the process ends


def _write(text: str) -> None:
    try:
        print(text, flush=True)
    except (OSError, ValueError):
        discard_output()


def _live() -> Any:
    """A started live view, which our thread redraws."""
    from rich.console import Console
    from rich.live import Live

    live = Live(console=Console(), auto_refresh=False, transient=True)
    live.start()
    return live
