"""Rows mined in parts, which all processes share; a broken run mines what is missing."""

import logging
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

from tdro_lightning.data.jsonl import read_rows, write_rows
from tdro_lightning.distributed.processes import barrier, rank, world_size
from tdro_lightning.errors import DataError
from tdro_lightning.files import remove_path
from tdro_lightning.mining.miner import Miner
from tdro_lightning.records.receipts import finished_result, read_receipt, write_receipt

PART_ROWS = 2048
MANIFEST = "manifest.json"

logger = logging.getLogger(__name__)


def mine_in_parts(
    miner: Miner, target: Path, folder: Path, made_from: Mapping[str, object]
) -> dict[str, int]:
    """Write the mined rows of a domain to a file, in their order, and return the counts.

    Called by all processes together; part i is mined by process i mod world size. The parts lie in
    a folder, which is deleted at the end.

    Args:
        miner: of all rows of the domain, the same on every process.
        target: the file that is written.
        folder: parts in it that were made from something else are deleted.
        made_from: fingerprints of everything that the mined rows depend on.

    Raises:
        DataError: as `Miner.choose`, no row is left, or a part was damaged meanwhile.
    """
    manifest = {"made_from": dict(made_from), "part_rows": PART_ROWS}
    if rank() == 0 and finished_result(folder / MANIFEST, manifest) is None:
        remove_path(folder)
        write_receipt(folder / MANIFEST, manifest, [])
    barrier()
    numbers = range(len(miner.rows))
    parts = [numbers[start : start + PART_ROWS] for start in numbers[::PART_ROWS]]
    files = [folder / f"{number:06d}.jsonl" for number in range(len(parts))]
    receipts = [file.with_suffix(".json") for file in files]
    made = [{**manifest, "part": number} for number in range(len(parts))]
    own = [
        number
        for number in range(rank(), len(parts), world_size())
        if finished_result(receipts[number], made[number]) is None
    ]
    # All are searched for at once, so that a large pool is gone through once.
    if own:
        logger.info("%s: searching for %s rows", target.name, f"{len(miner.rows):,}")
        scores, places = miner.search([*chain.from_iterable(parts[number] for number in own)])
    start = 0
    for number in own:
        hits = slice(start, start := start + len(parts[number]))
        logger.info("%s: mining part %d of %d", target.name, number + 1, len(parts))
        mined, counts = miner.choose(parts[number], (scores[hits], places[hits]))
        write_rows(files[number], mined)
        write_receipt(receipts[number], made[number], [files[number]], dict(counts))
    barrier()
    total = Counter[str]()
    for receipt, made_from_this in zip(receipts, made, strict=True):
        counted = read_receipt(receipt, made_from_this)
        if counted is None:
            raise DataError(f"{receipt}: is gone; run the command again")
        total.update(counted)
    if total["rows"] == total["without"]:
        raise DataError(
            f"none of the {total['rows']} rows keeps a negative; "
            "loosen mine.margin, mine.ratio or mine.max_score"
        )
    barrier()  # all have read the counts
    if rank() == 0:
        write_rows(target, (row for file in files for _, row in read_rows(file)))
        remove_path(folder)
    return dict(sorted(total.items()))
