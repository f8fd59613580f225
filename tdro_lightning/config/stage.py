"""What a stage is: everything that other code must know of one, in one place."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tdro_lightning.config.schema import Config

Input = str | Mapping[str, str | None]  # a path or hub name, or what is known of it already


def no_inputs(config: Config) -> dict[str, Input]:
    """Of a stage that reads no files."""
    return {}


def no_names(config: Config) -> list[str]:
    """Of a stage with no rules of its own, or that loads no models."""
    return []


@dataclass(frozen=True)
class Stage:
    """A stage, as `stages/` defines each in a file of its own.

    Attributes:
        name: value of the key `stage`.
        run: does the work, and writes to the run folder. It imports large libraries itself, so that
            a workflow with nothing to do starts at once.
        section: of the configuration, that must be there; None for none.
        settings: sections of the configuration that the results depend on.
        inputs: label to path of everything it reads.
        outputs: files and folders that it writes into the run folder for others to read.
        rules: what is wrong with a configuration, a line each.
        models: folders and hub names of the models that it loads.
        all_processes: whether every process runs it, or the first one only.
        is_run: whether it is recorded in `run.json`; a plan is not.
        runs_every_time: in a workflow, also where nothing has changed.
        replaces_own: it checks and replaces its own files, so nobody clears them before.
    """

    name: str
    run: Callable[[Config], None]
    section: str | None = None
    settings: Callable[[Config], tuple[str, ...]] = lambda config: ()
    inputs: Callable[[Config], Mapping[str, Input]] = no_inputs
    outputs: tuple[str, ...] = ()
    rules: Callable[[Config], list[str]] = no_names
    models: Callable[[Config], list[str]] = no_names
    all_processes: bool = False
    is_run: bool = True
    runs_every_time: bool = False
    replaces_own: bool = False
