"""A made-up library with rows of every domain: no test depends on what is installed."""

from pathlib import Path

import pytest

MODULES = 60
FUNCTIONS = 8
SUBJECTS = ["harbour", "lantern", "orchard", "glacier", "compass", "violin", "meadow", "canyon"]

FUNCTION = '''
def {name}(source, limit=3):
    """Return the {name} of a given source as a plain record.

    The {name} is read from every source that the caller has opened before this call.
    Later readers of the {name} see neither the sources nor their order.

    Args:
        source: the opened {name} source from which the record is read.
        limit (int): largest number of {name} entries to read
            before the reader stops.
    """
    # Keep the first entries of the {name}, since later ones repeat them.
    entries = source.entries("{name}")
    entries = entries[:limit]
    if not entries:
        raise LookupError(f"no entries of {name} in {{source}} at all")
    return entries
'''

TOPIC = """The {name} statement
********************

The {name} statement is described in this opening sentence of the topic.  It is followed by a
second sentence about the {name} that is long enough to be a document of its own here.
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library with the packages `made` and `more`, and topics."""
    root = tmp_path_factory.mktemp("library")
    for i in range(MODULES):
        package = root / ("made" if i < MODULES // 2 else "more")
        package.mkdir(exist_ok=True)
        names = [f"{SUBJECTS[i % 8]}{SUBJECTS[j]}{i}" for j in range(FUNCTIONS)]
        code = "".join(FUNCTION.format(name=name) for name in names)
        (package / f"part_{i}.py").write_text(code)
    topics = {name: TOPIC.format(name=name) for name in SUBJECTS}
    topics |= {f"{a} {b}": TOPIC.format(name=f"{a} {b}") for a in SUBJECTS for b in SUBJECTS}
    (root / "pydoc_data").mkdir()
    (root / "pydoc_data" / "topics.py").write_text(f"topics = {topics!r}\n")
    return root
