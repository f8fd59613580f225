"""What a planned run would read: rows, lengths in tokens, and how often each row is drawn."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
from huggingface_hub import try_to_load_from_cache
from numpy.typing import NDArray

from tdro_lightning.assembly.domains import configured_domains, require_room_for_queries
from tdro_lightning.assembly.encoders import configured_reading
from tdro_lightning.assembly.mixture import configured_mixture
from tdro_lightning.assembly.validation import split_for_validation
from tdro_lightning.config.schema import Config, TDROConfig
from tdro_lightning.data.dataset import RetrievalDataset
from tdro_lightning.data.domain_files import chosen_domains
from tdro_lightning.data.domains import Domain
from tdro_lightning.data.randomness import generator
from tdro_lightning.data.samplers import Draw, HeterogeneousBatches, HomogeneousBatches
from tdro_lightning.dro.transfer import RULES
from tdro_lightning.models.model_files import may_be_hub_name
from tdro_lightning.models.templates import PAPER, Templates
from tdro_lightning.models.tokenizer import TextTokenizer
from tdro_lightning.report.tables import NOTHING, Column, Table, cells

SAMPLE = 100  # rows of a domain whose texts are measured
CHARACTERS_A_TOKEN = 4  # where there is no tokenizer
BINS = 8  # of a histogram, up to the limit of tokens
BARS = "▁▂▃▄▅▆▇█"

Lengths = NDArray[np.int64]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LocalData:
    """What is on this machine of a run's data and tokenizer.

    Attributes:
        names: of the domains, in index order.
        sizes: rows of each domain; None where nobody knows.
        domains: with their rows; empty where these are not here.
        tokenizer: None where it is not here.
        templates: of queries and passages.
        notes: what is not here, each with the key that names it.
    """

    names: list[str]
    sizes: dict[str, int | None]
    domains: list[Domain] = field(default_factory=list)
    tokenizer: TextTokenizer | None = None
    templates: Templates = PAPER
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class DomainShare:
    """A domain in a planned run; lengths are tokens of a sample of its texts, after the cut."""

    name: str
    rows: int | None
    passages: int | None
    probability: float
    drawn: int | None
    queries: Lengths
    texts: Lengths

    @property
    def epochs(self) -> float | None:
        """How often each row is drawn."""
        return self.drawn / self.rows if self.drawn is not None and self.rows else None


def find_local_data(config: Config) -> LocalData:
    """Look for the data and the tokenizer; what is here is checked whole.

    Raises:
        ConfigError: no such domain, an unusable tokenizer, or a prompt too long for it.
        DataError: a row that breaks the format, or lacks the negatives.
    """
    given = config.domains
    names = chosen_domains(given.catalogue, given.only)
    rows = given.rows or {}
    found = LocalData(names, {n: rows.get(n, given.catalogue[n].size) for n in names})
    if missing := _missing(config, names):
        found.notes.append(f"{missing}: rows as catalogued, texts as long as the limits allow")
    else:
        domains = configured_domains(config)
        for domain in domains if config.data.negatives else ():
            domain.require_negatives()
        if config.validation is not None and config.validation.folder is None:
            domains, _ = split_for_validation(config, domains)
        found.domains.extend(domains)
        found.sizes.update({domain.name: len(domain) for domain in domains})
    folder = model_files(config.model.path, "tokenizer.json")
    if folder is None:
        unread = f"{CHARACTERS_A_TOKEN} characters are counted as one"
        how = unread if found.domains else "not used yet"
        found.notes.append(f"model.path={config.model.path}: its tokenizer is not here; {how}")
        return found
    reading = configured_reading(config, str(folder))
    tokenizer = TextTokenizer.load(str(folder), reading.pooling, reading.append_eos)
    require_room_for_queries(found.domains, tokenizer, config.data.query_tokens, reading.templates)
    return replace(found, tokenizer=tokenizer, templates=reading.templates)


def model_files(path: str, name: str) -> Path | None:
    """The local folder of a model that has such a file: its own, or the hub's cache."""
    if Path(path).is_dir():
        return Path(path) if (Path(path) / name).is_file() else None
    if not may_be_hub_name(path):
        return None
    cached = try_to_load_from_cache(path, name)
    return Path(cached).parent if isinstance(cached, str) else None


def domain_shares(config: Config, found: LocalData) -> list[DomainShare]:
    """Each domain's share of the run.

    Raises:
        ConfigError: the batch does not fit the domains, or the weights do not.
        DataError: the weights file is broken.
    """
    probability, used = _mixture(config, found)
    drawn = _drawn(config, probability, used)
    data = config.data
    dataset = RetrievalDataset(
        found.domains,
        data.negatives,
        config.seed,
        data.prompt_symmetric_passages,
        found.templates,
    )
    made = []
    for index, name in enumerate(found.names):
        queries, texts = np.array([data.query_tokens]), np.array([data.passage_tokens])
        passages = None
        if found.domains:
            logger.info("measuring the texts of %s", name)
            table = found.domains[index].table.data
            passages = sum(
                pc.sum(pc.list_value_length(table.column(f"{kind}_passages"))).as_py()
                for kind in ("positive", "negative")
            )
            queries, texts = _sampled(config, found, dataset, index)
        made.append(
            DomainShare(
                name,
                used[name],
                passages,
                probability[name],
                None if drawn is None else drawn[index],
                queries,
                texts,
            )  # fmt: skip
        )
    return made


def step_tokens(config: Config, found: list[DomainShare]) -> float:
    """Mean tokens of a global batch, without padding: all texts of all devices."""
    passages = 1 + config.data.negatives
    row = sum(p.probability * (p.queries.mean() + passages * p.texts.mean()) for p in found)
    return float(config.data.batch_size * row)


def data_table(config: Config, found: list[DomainShare]) -> Table:
    """A row a domain; what is measured of its texts, where these are on this machine."""
    limit = config.data.passage_tokens
    measured = any(part.passages is not None for part in found)
    columns = [Column("domain", numeric=False), Column("rows"), Column("epochs")]
    if measured:
        columns += [
            Column("passages"),
            Column("query", "tokens, median"),
            Column("passage", "tokens, median"),
            Column("cut", "at the limit"),
            Column("lengths", f"0 to {limit} tokens", numeric=False),
        ]
    rows = []
    for part in found:
        row = [
            part.name,
            NOTHING if part.rows is None else f"{part.rows:,}",
            NOTHING if part.epochs is None else f"{part.epochs:.2f}",
        ]
        if measured:
            row += [
                NOTHING if part.passages is None else f"{part.passages:,}",
                f"{np.median(part.queries):.0f}",
                f"{np.median(part.texts):.0f}",
                f"{(part.texts >= limit).mean():.0%}",
                bars(histogram(part.texts, limit)),
            ]
        rows.append(cells(row))
    return Table("Data", "", tuple(columns), tuple(rows))


def histogram(lengths: Lengths, limit: int) -> list[int]:
    """Counts of lengths in equal bins from 0 to the limit."""
    return [int(count) for count in np.histogram(lengths, bins=BINS, range=(0, limit))[0]]


def bars(counts: list[int]) -> str:
    """A histogram in a line; an empty bin is a space."""
    top = max(counts)
    return "".join(BARS[-(-c * len(BARS) // top) - 1] if c else " " for c in counts)


def _missing(config: Config, names: list[str]) -> str | None:
    """What keeps the rows from being read here, with the key that names it."""
    given = config.domains
    if given.hub is not None:
        return None if Path(given.hub).is_dir() else f"domains.hub={given.hub} is on the hub"
    if given.root is None:
        return "domains.root is not set"
    files = [given.catalogue[name].file for name in names]
    lacking = [file for file in files if not (Path(given.root) / file).is_file()]
    return f"domains.root={given.root} lacks {lacking[0]}" if lacking else None


def _mixture(
    config: Config, found: LocalData
) -> tuple[Mapping[str, float], Mapping[str, int | None]]:
    """Probability and used rows of each domain; all alike, and all rows, where nobody knows."""
    uniform = dict.fromkeys(found.names, 1 / len(found.names))
    if isinstance(config.module, TDROConfig):
        return uniform, found.sizes
    weights = config.transfer.weights
    from_file = RULES[config.transfer.rule].weighted and config.transfer.given is None
    if from_file and (weights is None or not Path(weights).is_file()):
        found.notes.append(f"transfer.weights={weights} is not there: domains are drawn alike")
        return uniform, found.sizes
    mixture = configured_mixture(config, found.sizes, found.domains)
    return mixture.probability, mixture.rows


def _drawn(
    config: Config, probability: Mapping[str, float], used: Mapping[str, int | None]
) -> list[int] | None:
    rows = [size for size in used.values() if size is not None]
    if len(rows) < len(used):
        return None
    shape = (list(used), rows, config.data.batch_size, config.trainer.steps, config.seed)
    if isinstance(config.module, TDROConfig):
        return HeterogeneousBatches(*shape).rows_drawn()
    return HomogeneousBatches(*shape, probability=[probability[n] for n in used]).rows_drawn()


def _sampled(
    config: Config, found: LocalData, dataset: RetrievalDataset, index: int
) -> tuple[Lengths, Lengths]:
    """Tokens of the queries and passages of some rows, as training would draw them."""
    rows = len(found.domains[index])
    chosen = generator(0, f"plan {found.names[index]}").permutation(rows)[:SAMPLE]
    examples = [dataset[Draw(0, index, int(row))] for row in chosen]
    queries = [example.query for example in examples]
    texts = [text for example in examples for text in example.passages]
    return (
        _lengths(queries, config.data.query_tokens, found.tokenizer),
        _lengths(texts, config.data.passage_tokens, found.tokenizer),
    )


def _lengths(texts: list[str], limit: int, tokenizer: TextTokenizer | None) -> Lengths:
    if tokenizer is not None:
        return tokenizer(texts, limit).lengths.numpy()
    estimated = [1 + len(text) // CHARACTERS_A_TOKEN for text in texts]
    return np.minimum(estimated, limit)
