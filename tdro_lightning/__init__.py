"""Task-level distributionally robust optimisation (tDRO) for dense retrieval."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tdro_lightning.export.mixture_batches import DatasetMixture

__version__ = "0.1.0"


def load_mixture(path: str | Path) -> "DatasetMixture":
    """A `mixture.yaml` as the `multi_dataset_batch_sampler` of sentence-transformers.

    Raises:
        DataError: the file is missing or is no such file.
        ConfigError: it scales the losses of domains, which a sampler cannot do.
    """
    from tdro_lightning.dro.mixture_file import read_mixture
    from tdro_lightning.export.mixture_batches import DatasetMixture  # torch takes seconds

    return DatasetMixture(read_mixture(Path(path)))
