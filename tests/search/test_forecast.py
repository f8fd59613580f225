import shutil
from pathlib import Path

import numpy as np
import pytest

from tdro_lightning.errors import DataError
from tdro_lightning.search.forecast import Forecast
from tdro_lightning.search.shards import Shards


def shards(folder: Path, rows: int, dtype: str = "float16") -> Shards:
    """Shards of 4,096 rows in 384 dimensions, of which the first is there."""
    one = Shards(folder, rows, 4096, dtype)
    one.write(0, np.ones((4096, 384), np.float32))
    return one


def test_time_and_disk(tmp_path: Path) -> None:
    forecast = Forecast(shards(tmp_path, 90_000_000), 21_965, 86_400 + 7_260, 8)
    assert forecast.bytes == 90_000_000 * 384 * 2
    assert forecast.missing_bytes == 21_965 * 4096 * 384 * 2
    assert str(forecast) == (
        "90,000,000 texts in 384 dimensions (float16), 69.12 GB in 21,973 shards; "
        "21,965 of them to encode, about 1 day, 2:01:00 with 8 processes"
    )
    assert Forecast(shards(tmp_path, 8192, "float32"), 1, 0, 1).bytes == 8192 * 384 * 4


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    rows = free // (384 * 2)
    Forecast(shards(tmp_path, rows), rows // 4096 // 2, 0, 1).require_room()
    message = r"the embeddings take .* GB more, .* GB are free; .* evaluate\.embeddings=FOLDER"
    with pytest.raises(DataError, match=message):
        Forecast(shards(tmp_path, 2 * rows), 2 * rows // 4096, 0, 1).require_room()
