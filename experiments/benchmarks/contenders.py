"""The steps and encodings that are compared, by name, on the same rows and the same weights."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from rivals import PaddedStep, SentenceTransformersEncoding, SentenceTransformersStep
from rounds import Work, fastest
from steps import DOMAINS, NEGATIVES, TEMPERATURE, Settings, autocast
from torch import Tensor
from workbench import Case, Workbench

from tdro_lightning.data.collator import Batch
from tdro_lightning.data.example import Example
from tdro_lightning.losses.contrastive import all_passage_losses, hard_negative_losses
from tdro_lightning.losses.gradient_cache import CachedEmbeddings
from tdro_lightning.losses.reference_cache import ReferenceLosses, loss_fingerprint, row_keys
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.tokens import Tokens, length_chunks
from tdro_lightning.training.finetune import FinetuneModule
from tdro_lightning.training.strategies import checkpoint_activations

TDRO, TDRO_FLOOR, PADDED = "tDRO step", "tDRO floor", "padded tDRO step"
TUNING, TUNING_FLOOR = "fine-tuning step", "fine-tuning floor"
THEIR_STEP, THEIR_BEST = "sentence-transformers step", "sentence-transformers best step"
DEEP, THEIR_DEEP = "deep fine-tuning step", "sentence-transformers best deep step"
ENCODING, THEIR_ENCODING = "encoding", "sentence-transformers encoding"
FIRST_RUN, SECOND_RUN = "first run's step", "second run's step"
# By the training set whose 512 rows with 7 hard negatives have that share of distinct passages.
DISTINCT = {"arcd": 0.11, "agnews": 0.67}
REPEATED = {  # by model and set: equal texts run once, as in a run, and each text runs by itself
    (model, name): (f"{model}, {name}: step", f"{model}, {name}: each text run")
    for model in ("small", "MiniLM")
    for name in DISTINCT
}

ROOFLINE = (TDRO, TUNING, THEIR_BEST, DEEP, THEIR_DEEP)  # whose kernels are counted

PADDED_BATCHES = (8, 16, 32)  # texts, tried for the padded step
MINI_BATCH_TOKENS = {  # tried for sentence-transformers' best step
    "cpu": (128, 256, 512, 1024),
    "cuda": (4096, 8192, 16_384, 32_768, 65_536),
}
DEEP_MINI_BATCH_TOKENS = {"cpu": (256, 512), "cuda": (8192, 16_384, 32_768)}
ENCODE_BATCHES = (32, 64, 128)  # tried for its encoding


def tdro_case(bench: Workbench) -> Case:
    """Our tDRO step, its floor, and a step of padded mini-batches."""
    settings = bench.settings("tdro", bench.choice.kept_tokens)
    ours = bench.tdro(settings, DOMAINS)
    batch = bench.batch(bench.examples(bench.choice.tdro_batch, NEGATIVES["tdro"], DOMAINS))

    def padded() -> PaddedStep:
        made = bench.tdro(settings, DOMAINS)
        if settings.device == "cuda":
            checkpoint_activations(made.proxy)  # or it fits on no GPU
        return PaddedStep(settings, made, batch)

    trial = padded()  # it trains
    best = bench.choice.padded_batch or fastest(trial.tune, trial, PADDED_BATCHES)
    theirs = padded()
    theirs.tune(best)
    assert ours.reference is not None
    floor = _floor(settings, ours.proxy, batch.texts, ours.reference)
    return Case(
        module=ours,
        batches={TDRO: [batch] * (1 + bench.choice.repeats)},
        others={TDRO_FLOOR: floor, PADDED: theirs},
        lengths=batch.texts.lengths,
        checked=(partial(_hard_negative_loss, ours.proxy, batch), theirs.loss),
        setting=("padded_batch", best),
    )


def tuning_case(bench: Workbench) -> Case:
    """Our fine-tuning step with its gradient cache, its floor, and sentence-transformers' step."""
    settings, choice = bench.settings("finetune"), bench.choice
    rows = bench.examples(choice.finetune_batch, NEGATIVES["finetune"], 1)
    tried = MINI_BATCH_TOKENS[settings.device]
    ours, batch, theirs, best = _tuned(bench, settings, rows, choice.mini_batch_tokens or tried)
    return Case(
        module=ours,
        batches={TUNING: [batch] * (1 + choice.repeats)},
        others={
            TUNING_FLOOR: _floor(settings, ours.encoder, batch.texts, ours.encoder, kept=1),
            THEIR_STEP: partial(theirs.tuned, choice.chunk_tokens),
            THEIR_BEST: partial(theirs.tuned, best),
        },
        lengths=batch.texts.lengths,
        checked=(partial(_all_passage_loss, ours.encoder, batch), theirs.loss),
        setting=("mini_batch_tokens", best),
    )


def deep_case(bench: Workbench) -> Case:
    """Fine-tuning of every weight of a deep model, ours and sentence-transformers'."""
    choice = bench.choice
    settings = replace(bench.settings("finetune", model=choice.deep_model), full=True)
    rows = bench.examples(choice.deep_batch, NEGATIVES["finetune"], 1)
    tried = choice.deep_mini_batch_tokens or DEEP_MINI_BATCH_TOKENS[settings.device]
    ours, batch, theirs, best = _tuned(bench, settings, rows, tried)
    return Case(
        module=ours,
        batches={DEEP: [batch] * (1 + choice.repeats)},
        others={THEIR_DEEP: partial(theirs.tuned, best)},
        lengths=batch.texts.lengths,
        checked=(partial(_all_passage_loss, ours.encoder, batch), theirs.loss),
        setting=("deep_mini_batch_tokens", best),
    )


def _tuned(
    bench: Workbench, settings: Settings, rows: list[Example], tried: int | Sequence[int]
) -> tuple[FinetuneModule, Batch, SentenceTransformersStep, int]:
    """Our module and batch, sentence-transformers' step, and its fastest mini-batch in tokens."""
    ours = bench.finetune(settings)
    saved = bench.saved(settings)
    make = partial(SentenceTransformersStep, settings, saved, rows, ours.optimisation)
    if isinstance(tried, int):
        return ours, bench.batch(rows), make(), tried
    trial = make()  # it trains
    best = fastest(trial.tune, trial, tried)
    return ours, bench.batch(rows), make(), best


def encoding_case(bench: Workbench) -> Case:
    """Encoding of passages, ours and sentence-transformers'."""
    settings, choice = bench.settings("finetune"), bench.choice
    texts = [row.passages[0] for row in bench.examples(choice.texts, 0, 1)]
    ours = partial(bench.encoder(settings, trained=False).embed_passages, texts)
    theirs = SentenceTransformersEncoding(settings, bench.saved(settings), texts)
    best = choice.encode_batch or fastest(theirs.tune, theirs, ENCODE_BATCHES)
    theirs.tune(best)
    return Case(
        others={ENCODING: ours, THEIR_ENCODING: theirs},
        lengths=bench.tokenizer(texts, settings.passage_tokens).lengths,
        checked=(ours, theirs),
        setting=("encode_batch", best),
    )


def cache_case(bench: Workbench) -> Case:
    """A tDRO step with a LoRA, as in the paper, without and with the reference's losses on disk."""
    choice = bench.choice
    settings = bench.settings("tdro", choice.kept_tokens, model=choice.lora_model, lora=True)
    module = bench.tdro(settings, DOMAINS)
    assert module.reference is not None
    known = loss_fingerprint(module.reference, TEMPERATURE, settings.precision)
    cache = module.reference_cache = ReferenceLosses(bench.folder / "losses", known, TEMPERATURE)
    batch = bench.batch(bench.examples(bench.choice.tdro_batch, NEGATIVES["tdro"], DOMAINS))
    cache.add(
        row_keys(batch.queries, batch.passages, known),
        _hard_negative_losses(module.reference, batch),
    )
    rounds = range(1, 2 + bench.choice.repeats)
    return Case(
        module=module,
        batches={
            SECOND_RUN: [batch for _ in rounds],
            FIRST_RUN: [
                _changed(batch, number, bench.tokenizer.vocabulary_size) for number in rounds
            ],
        },
        lengths=batch.texts.lengths,
    )


def repeated_case(bench: Workbench, model: str, name: str) -> Case:
    """A fine-tuning step on passages that repeat as a training set's do, run once or each."""
    choice, (once, each) = bench.choice, REPEATED[model, name]
    chosen = choice.model if model == "small" else choice.minilm_model
    settings = replace(bench.settings("finetune", model=chosen), full=True)
    # Short texts, since there are 8 times 512 passages; queries as short beside them as real ones.
    rows = bench.examples(
        choice.repeated_batch, NEGATIVES["tdro"], 1, query_mean=4, passage_mean=24
    )
    pool = [text for row in rows for text in row.passages]
    random = np.random.default_rng(choice.seed)
    distinct = max(1, round(DISTINCT[name] * len(pool)))
    drawn = random.permutation(
        [*range(distinct), *random.integers(distinct, size=len(pool) - distinct)]
    )
    width = 1 + NEGATIVES["tdro"]
    batch = bench.batch(
        [
            replace(row, passages=tuple(pool[j] for j in drawn[i * width :][:width]))
            for i, row in enumerate(rows)
        ]
    )
    alone = replace(
        batch,
        queries=replace(batch.queries, keys=None),
        passages=replace(batch.passages, keys=None),
    )
    module = bench.finetune(settings)
    rounds = 1 + choice.repeats
    return Case(
        module=module,
        batches={once: [batch] * rounds, each: [alone] * rounds},
        lengths=alone.texts.lengths,
        checked=(
            partial(_cached_loss, module.encoder, batch),
            partial(_cached_loss, module.encoder, alone),
        ),
    )


CASES: dict[Callable[[Workbench], Case], tuple[str, ...]] = {
    tdro_case: (TDRO, TDRO_FLOOR, PADDED),
    tuning_case: (TUNING, TUNING_FLOOR, THEIR_STEP, THEIR_BEST),
    deep_case: (DEEP, THEIR_DEEP),
    encoding_case: (ENCODING, THEIR_ENCODING),
    cache_case: (FIRST_RUN, SECOND_RUN),
    **{partial(repeated_case, model=m, name=n): names for (m, n), names in REPEATED.items()},
}


def _floor(
    settings: Settings, trained: Encoder, texts: Tokens, first: Encoder, kept: int = 0
) -> Work:
    """The least that a step can cost: its forward and backward passes over the same chunks.

    No padding, no pooling, no loss, no update, no log; a chunk's activations go before the next
    one's come.

    Args:
        settings: of the run.
        trained: runs forward and backward over all chunks.
        texts: what is cut into chunks.
        first: runs forward before that, without gradient.
        kept: first chunks that it leaves out.
    """
    texts = texts.to(settings.device)
    chunks = [texts.padded(rows)[0] for rows in length_chunks(texts.lengths, trained.chunk_tokens)]

    def work() -> None:
        with autocast(settings):
            with torch.no_grad():
                for ids in chunks[kept:]:
                    first.backbone(input_ids=ids)
            for ids in chunks:
                trained.backbone(input_ids=ids).last_hidden_state[:, -1].sum().backward()
        trained.zero_grad()

    return work


def _changed(batch: Batch, number: int, vocabulary: int) -> Batch:
    """Texts that no cache knows, of the same lengths."""
    queries, passages = (
        Tokens((tokens.ids + number) % vocabulary, tokens.lengths)
        for tokens in (batch.queries, batch.passages)
    )
    return Batch(queries, passages, batch.domain, batch.query_ids)


def _embedded(encoder: Encoder, batch: Batch) -> tuple[Tensor, Tensor]:
    device = next(encoder.parameters()).device
    queries, passages = encoder(batch.texts.to(device)).tensor_split([len(batch)])
    return queries, passages


@torch.no_grad()
def _hard_negative_losses(encoder: Encoder, batch: Batch) -> Tensor:
    queries, passages = _embedded(encoder, batch)
    rows = passages.view(len(batch), -1, passages.shape[-1])
    return hard_negative_losses(queries, rows, TEMPERATURE)


def _hard_negative_loss(encoder: Encoder, batch: Batch) -> float:
    return float(_hard_negative_losses(encoder, batch).mean())


@torch.no_grad()
def _cached_loss(encoder: Encoder, batch: Batch) -> float:
    vectors = CachedEmbeddings(
        encoder, batch.texts.to(next(encoder.parameters()).device), (0,)
    ).vectors
    return _loss_of(*vectors.tensor_split([len(batch)]))


@torch.no_grad()
def _all_passage_loss(encoder: Encoder, batch: Batch) -> float:
    return _loss_of(*_embedded(encoder, batch))


def _loss_of(queries: Tensor, passages: Tensor) -> float:
    positive = torch.arange(len(queries), device=queries.device) * (len(passages) // len(queries))
    return float(all_passage_losses(queries, passages, positive, TEMPERATURE).mean())
