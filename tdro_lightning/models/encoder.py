"""A text encoder: backbone, pooling and normalisation; freezing, saving."""

import logging
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from scipy.sparse import vstack
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedModel

from tdro_lightning.console.output import note_warning
from tdro_lightning.distributed.collectives import largest
from tdro_lightning.distributed.processes import rank
from tdro_lightning.files import write_json
from tdro_lightning.models.adapter import (
    AdapterInputs,
    has_own_embeddings,
    save_backbone,
    use_adapter,
)
from tdro_lightning.models.head import Head, save_head
from tdro_lightning.models.last_layer import last_layer
from tdro_lightning.models.model_files import (
    DESCRIPTION,
    attends_to_both_sides,
    deciding_files,
)
from tdro_lightning.models.pooling import POOLINGS, last_positions
from tdro_lightning.models.sparse_head import SparseHead, to_csr
from tdro_lightning.models.sparse_rows import BatchVectors, compact, stack
from tdro_lightning.models.templates import PAPER, Templates
from tdro_lightning.models.tokenizer import MOST_CUT, TextTokenizer, cut_warning
from tdro_lightning.models.tokens import Tokens, length_chunks, padded_tokens, split_chunks

logger = logging.getLogger(__name__)

FEWEST = 50  # texts from which on a share of them means something
ENCODE_BLOCK = 8192  # texts tokenised at a time when a corpus is encoded

Vectors = Any  # [N, D] without gradient: an array in float32, or of sparse vectors a CSR matrix


class Encoder(nn.Module):
    """Texts to vectors, of unit length unless the head says otherwise.

    Args:
        backbone: a transformer that returns `last_hidden_state`, with or without an adapter.
        tokenizer: the tokenizer the backbone was trained with.
        pooling: of `POOLINGS`.
        query_tokens: longest query in tokens, special tokens included.
        passage_tokens: longest passage in tokens, special tokens included.
        chunk_tokens: padded tokens in one forward pass; it changes memory and speed, not results.
        kept_tokens: padded tokens of a training batch whose activations stay in memory until its
            backward pass.
        adapter: the backbone's adapter that this encoder uses, where the backbone is another
            encoder's; None where it is its own.
        templates: what stands around queries and passages.
        head: from pooled vectors to embeddings, where None scales them to unit length; or a sparse
            one, from the states of all tokens to a weight for each term.
    """

    def __init__(
        self,
        backbone: PreTrainedModel | PeftModel,
        tokenizer: TextTokenizer,
        pooling: str,
        query_tokens: int,
        passage_tokens: int,
        chunk_tokens: int = 16384,
        kept_tokens: int = 0,
        adapter: str | None = None,
        templates: Templates = PAPER,
        head: Head | SparseHead | None = None,
    ) -> None:
        super().__init__()
        if adapter is None:
            self.backbone = backbone
        else:  # a submodule of the other encoder only, so that no parameter is found twice
            self.__dict__["backbone"] = backbone
        self.adapter = adapter
        self.tokenizer = tokenizer
        self.pooling = pooling
        self.query_tokens = query_tokens
        self.passage_tokens = passage_tokens
        self.chunk_tokens = chunk_tokens
        self.kept_tokens = kept_tokens
        self.templates = templates
        self.head = Head() if head is None else head
        self._adapter_inputs = AdapterInputs(backbone)
        self._warned: set[str] = set()  # keys of limits that cut many texts, said once each
        # An encoder of a plan may have no tokenizer.
        special = tokenizer.tokenizer.all_special_ids if tokenizer is not None else []
        self._special = torch.tensor(special, dtype=torch.long)
        lean = pooling == "last" and not self.sparse
        self._last_layer = last_layer(backbone) if lean else None
        attentions = [m for m in backbone.modules() if hasattr(m, "is_causal")]
        # The config overrules the layers: it makes a decoder attend in both directions.
        self.causal = (
            getattr(backbone.config, "is_causal", True)
            and bool(attentions)
            and all(m.is_causal for m in attentions)
        )

    def forward(self, tokens: Tokens) -> Tensor:
        """Unit vectors of the texts, [N, D] float32, in the order given.

        Texts are run in chunks of like length, so that a vector depends on its own text only, and
        equal texts are run once.
        """
        chunks, places = self.chunks_of(tokens)
        with use_adapter(self.backbone, self.adapter):
            vectors = torch.cat([self.embed_rows(tokens, rows) for rows in chunks])
        return vectors[places]

    @torch.no_grad()
    def without_gradient(self, tokens: Tokens) -> BatchVectors:
        """The same; sparse vectors as their nonzero values where that takes less memory."""
        if not self.sparse:
            vectors: Tensor = self(tokens)
            return vectors
        chunks, places = self.chunks_of(tokens)
        with use_adapter(self.backbone, self.adapter):
            return stack([compact(self.embed_rows(tokens, rows)) for rows in chunks])[places]

    @property
    def sparse(self) -> bool:
        """Whether vectors are sparse: a weight for each term of the vocabulary."""
        return isinstance(self.head, SparseHead)

    @property
    def dimensions(self) -> int:
        """Values of a vector."""
        return self.head.size(self.backbone.config.get_text_config().hidden_size)

    @property
    def sharded(self) -> bool:
        """Whether the backbone's parameters are spread over the processes of the run."""
        return isinstance(self.backbone, FSDPModule)

    @property
    def pooled_only(self) -> list[nn.Module]:
        """Blocks of the backbone that only the pooled tokens pass."""
        return [self._last_layer.feed_forward] if self._last_layer else []

    def chunks(self, lengths: Tensor) -> list[Tensor]:
        """Row indices of the forward passes that texts of such lengths [N] need.

        A forward pass of a sharded backbone is a collective, so then all ranks make equally many.
        """
        chunks = length_chunks(lengths, self.chunk_tokens)
        return split_chunks(chunks, largest(len(chunks))) if self.sharded else chunks

    def chunks_of(self, tokens: Tokens) -> tuple[list[Tensor], Tensor]:
        """Rows of the forward passes that N texts need, and the place [N] of each text in them.

        Of equal texts the first alone is run: its place is that of the others, too.
        """
        rows, places = tokens.distinct
        chunks = self.chunks(tokens.distinct_lengths)
        return [rows[chunk] for chunk in chunks], torch.cat(chunks).argsort()[places]

    def kept_chunks(self, lengths: Tensor, chunks: list[Tensor]) -> int:
        """How many of a batch's chunks keep their graph, from the first on; at least the one."""
        sizes = [padded_tokens(lengths, [rows]) for rows in chunks]
        fitting = sum(1 for total in accumulate(sizes) if total <= self.kept_tokens)
        kept = max(fitting, 1)
        return -largest(-kept) if self.sharded else kept

    def reduce_gradients(self, last: bool) -> None:
        """Prepare a backward pass of a sharded backbone, and say whether it is the step's last.

        A sparse head that is tied to the embedding reads it before the backbone's own backward pass
        collects it again, so it is collected here.

        Gradients of an adapter are small: they are summed over ranks once, after the last chunk.
        Those of a whole model would not fit unsharded, so each chunk's are reduced and sharded.
        """
        if self.sharded and isinstance(self.backbone, PeftModel):
            self.backbone.set_requires_gradient_sync(last)
        if isinstance(self.backbone, FSDPModule) and self.sparse and self.head.tied:
            self.backbone.unshard()

    def embed_rows(self, tokens: Tokens, rows: Tensor) -> Tensor:
        """Unit vectors of some texts in one forward pass, [R, D]."""
        return self._embed_first(*tokens.padded(rows))

    def embed(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors of one padded chunk.

        Args:
            ids: [R, L] token ids, padded on either side.
            mask: [R, L] true where a token stands.

        Returns:
            [R, D] in float32, or float64 for a float64 backbone.
        """
        if not bool(mask[:, 0].all()):
            # Positions are counted from the left, so each text must start there.
            tokens_first = mask.long().argsort(dim=1, descending=True, stable=True)
            ids, mask = ids.gather(1, tokens_first), mask.gather(1, tokens_first)
        return self._embed_first(ids, mask)

    def _embed_first(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Unit vectors of a chunk that is padded on the right."""
        lean = self._last_layer.only(last_positions(mask)) if self._last_layer else nullcontext()
        with lean:
            states = self.token_states(ids, mask)
        with torch.autocast(states.device.type, enabled=False):
            if isinstance(self.head, SparseHead):
                return self.head(states, self.head.counted(ids, mask, self._special))
            vectors: Tensor = self.head(POOLINGS[self.pooling](states, mask))
            return vectors

    def token_states(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Last hidden states [R, L, H] of a chunk that is padded on the right."""
        # In a causal model nothing looks at padding on the right; without a mask the fast attention
        # kernels run.
        attention_mask = None if self.causal else mask.long()
        self._adapter_inputs.adjust(ids.device)
        states: Tensor = self.backbone(
            input_ids=ids, attention_mask=attention_mask
        ).last_hidden_state
        return states

    def embed_queries(self, texts: Sequence[str], prompt: str | None) -> Vectors:
        """Vectors [N, D] of queries under one prompt, without gradient."""
        prompted = [self.templates.format_query(text, prompt) for text in texts]
        return self._embed_texts(prompted, self.query_tokens, "data.query_tokens")

    def embed_passages(self, texts: Sequence[str]) -> Vectors:
        """Vectors [N, D] of passages, without gradient."""
        prompted = [self.templates.format_passage(text) for text in texts]
        return self._embed_texts(prompted, self.passage_tokens, "data.passage_tokens")

    @torch.inference_mode()
    def _embed_texts(self, texts: Sequence[str], max_tokens: int, key: str) -> Vectors:
        was_training = self.training
        self.eval()
        device = next(self.backbone.parameters()).device
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        blocks, full = [], 0
        for start in range(0, len(texts), ENCODE_BLOCK):
            chosen = [texts[i] for i in by_length[start : start + ENCODE_BLOCK]]
            tokens = self.tokenizer(chosen, max_tokens)
            full += int((tokens.lengths == max_tokens).sum())
            blocks.append(self._embed_block(tokens.to(device)))
        self.train(was_training)
        if full:
            logger.info(
                "%d of %d texts have the %d tokens allowed; all but those that just fit are cut",
                *(full, len(texts), max_tokens),
            )
        if key not in self._warned and len(texts) >= FEWEST and full > MOST_CUT * len(texts):
            self._warned.add(key)
            note_warning(cut_warning(key, max_tokens, full / len(texts)))
        order = np.argsort(by_length)
        stacked = vstack(blocks, format="csr") if self.sparse else np.concatenate(blocks)
        return stacked[order]

    def _embed_block(self, tokens: Tokens) -> Vectors:
        """Vectors of some texts; of sparse ones only those of a chunk are held whole."""
        if not self.sparse:
            return self(tokens).float().cpu().numpy()
        chunks, places = self.chunks_of(tokens)
        with use_adapter(self.backbone, self.adapter):
            rows = [to_csr(self.embed_rows(tokens, chunk).float()) for chunk in chunks]
        return vstack(rows, format="csr")[places.cpu().numpy()]

    def freeze(self) -> "Encoder":
        """Put the encoder in eval mode without gradients, as the reference needs it."""
        return self.requires_grad_(False).eval()

    def save(self, folder: Path, *, adapted: bool = False) -> None:
        """Write model (or adapter), tokenizer and description, for `loading.load_encoder` to read.

        All ranks of a run call it together, and the first one writes.

        Args:
            folder: it is made.
            adapted: as for `describe`.
        """
        whole = None
        if self.sharded:
            adapted = isinstance(self.backbone, PeftModel)
            only_adapter = adapted and not has_own_embeddings(self.backbone)
            options = StateDictOptions(
                full_state_dict=True, cpu_offload=True, ignore_frozen_params=only_adapter
            )
            whole = get_model_state_dict(self.backbone, options=options)
        if rank() > 0:
            return
        save_backbone(self.backbone, folder, whole)
        if not self.sparse or self.head.trained or not isinstance(self.backbone, PeftModel):
            save_head(self.head, folder)  # else it is the base model's
        self.tokenizer.save(folder)
        self.describe(folder, adapted=adapted)

    def describe(self, folder: Path, *, adapted: bool = False) -> None:
        """Write what `loading.load_encoder` has to know beside the model, after all other files.

        Args:
            folder: of the model.
            adapted: it is a language model that any encoder can be made of: how its texts are read
                and pooled is left open.
        """
        reading = {
            "pooling": self.pooling,
            "query_tokens": self.query_tokens,
            "passage_tokens": self.passage_tokens,
            "templates": asdict(self.templates),
            "head": self.head.describe(),
            "prefixes": [*self.head.prefixes],
        }
        # The base model's config, which says it otherwise, is not in an adapter's folder.
        beside = isinstance(self.backbone, PeftModel) and attends_to_both_sides(
            self.backbone.config
        )
        write_json(
            folder / DESCRIPTION,
            {
                **({"adapted": True} if adapted else reading),
                **({"bidirectional": True} if beside else {}),
                "sha256": deciding_files(folder),
            },
        )
