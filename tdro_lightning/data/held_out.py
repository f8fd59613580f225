"""Rows that are held out of training to measure it by, chosen by their query alone."""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from tdro_lightning.data.characters import normalise
from tdro_lightning.data.domains import Domain
from tdro_lightning.data.example import Row
from tdro_lightning.data.tables import cached_rows

logger = logging.getLogger(__name__)


def query_place(query: str) -> float:
    """Where a query stands between 0 and 1: a hash of its text, by which all spread evenly.

    Queries that differ in case, width or white space only stand in one place.
    """
    text = normalise(query).encode()
    digest = hashlib.blake2b(text, digest_size=8, person=b"held out").digest()
    return int.from_bytes(digest) / 2**64


def split_domain(domain: Domain, per_cent: float, most: int) -> tuple[Domain, list[Row]]:
    """The rows of a domain to train on, and some of those that are held out.

    A row is held out if the hash of its query is among the lowest, so it is held out in every
    domain, whatever the seed, the order of the rows and the rows beside it. A domain is left whole
    where nothing of it, or all of it, would be held out.

    Args:
        domain: all rows.
        per_cent: of the queries to hold out, about.
        most: rows of those held out to read.

    Returns:
        the domain to train on, with a fingerprint of its own, and the first rows held out, by the
        hashes of their queries and then by id.
    """
    logger.info("domain %s: finding the rows to hold out", domain.name)
    places = np.fromiter(map(query_place, _queries(domain)), dtype=np.float64, count=len(domain))
    chosen = np.flatnonzero(places < per_cent / 100)
    if len(chosen) in (0, len(domain)):
        return domain, []
    ids = domain.table.select(chosen)["query_id"]
    order = sorted(zip(places[chosen].tolist(), ids, chosen.tolist(), strict=True))[:most]
    content = f"{domain.fingerprint} less {per_cent:g} per cent"
    training = replace(
        domain,
        table=cached_rows(domain.table, np.delete(np.arange(len(domain)), chosen)),
        fingerprint=hashlib.sha256(content.encode()).hexdigest(),
    )
    return training, [domain.table[index] for _, _, index in order]


def _queries(domain: Domain) -> Iterator[str]:
    for part in domain.table.data.column("query").chunks:
        yield from part.to_pylist()
