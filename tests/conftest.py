import logging
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import datasets
import pytest
import torch
import transformers

pytest_plugins = [
    f"tests.fixtures.{name}"
    for name in ("models", "domains", "evaluation", "training", "commands", "plans")
]
os.environ["TOKENIZERS_PARALLELISM"] = "false"  # tests fork data workers
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)
# A shell that runs the suite in the background ignores SIGINT, and so would all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def datasets_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Arrow files of the test run, away from the user's own cache."""
    folder = tmp_path_factory.mktemp("datasets")
    datasets.config.HF_DATASETS_CACHE = folder
    os.environ["HF_DATASETS_CACHE"] = str(folder)
    return folder


@pytest.fixture(autouse=True)
def logging_level() -> None:
    """A command that ran in this process before has set the root logger to its own level."""
    logging.getLogger().setLevel(logging.WARNING)


@pytest.fixture
def float64_norms() -> Iterator[None]:
    """Qwen2's norms in the model's own precision."""
    from tests.made_up import unrounded_norms  # after the fixtures, which pytest rewrites

    with unrounded_norms():
        yield
