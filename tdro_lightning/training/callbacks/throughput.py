"""How fast a run is, and where its time goes, at every step."""

import re
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn

from tdro_lightning.console.output import note_warning
from tdro_lightning.data.collator import Batch
from tdro_lightning.files import GIGA
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_head import SparseHead
from tdro_lightning.models.tokenizer import MOST_CUT, cut_warning
from tdro_lightning.models.tokens import Tokens, length_chunks, padded_tokens
from tdro_lightning.training.history import log_now
from tdro_lightning.training.roofline import GPUS

WARN_AFTER = 20  # steps, whose texts tell how many are cut


class Throughput(Callback):
    """Logs speed, padding, cut texts, time spent waiting for data, memory, and MFU on a known GPU.

    * `passages_per_second`, `tokens_per_second`: over all processes; passages without queries,
      tokens without padding.
    * `padding`: share of padded tokens that are padding, on this process.
    * `at_limit`: share of this process's texts that are as long as `data.query_tokens` and
      `data.passage_tokens` allow; all but the few that just fit have been cut.
    * `data_wait`: share of the time between two ends of a step in which the loader was waited for.
    * `mfu`: useful FLOPs as a share of the GPU's peak: 6 a trained parameter and token, 4 where
      the weights are frozen and only an adapter trains, 2 for a reference and the tokens that it is
      run for, which are not those of cached losses; 2 for the output layer of a sparse head, whose
      backward pass runs for active terms only; without embeddings, attention scores, what runs
      twice and what runs for pooled tokens only.
    * `peak_memory_gb`: most memory PyTorch has held on this GPU.
    * `peak_process_gb`: where there is no GPU, most memory this process has held since training
      began, libraries included (on Linux).

    Args:
        trained: the encoder that trains.
        reference: the frozen one of its size beside it, if there is one.

    Attributes:
        flops: useful ones of the last step, on this process.
    """

    def __init__(self, trained: Encoder, reference: Encoder | None = None) -> None:
        self.trained = trained
        self.flops = 0
        # Counted before the encoders are sharded.
        self._flops_per_token = useful_flops(trained, references=0)
        self._reference_flops = useful_flops(trained, references=1) - self._flops_per_token
        self._reference_tokens = 0
        if reference is not None:
            reference.register_forward_pre_hook(self._count)
        self._ended = self._began = time.perf_counter()
        self._steps, self._full, self._texts = 0, Counter[str](), Counter[str]()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        reset_process_peak()
        self._steps, self._full, self._texts = 0, Counter[str](), Counter[str]()
        self._ended = time.perf_counter()

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int
    ) -> None:
        """The data is here."""
        self._reference_tokens = 0
        self._began = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, *rest: Any
    ) -> None:
        """Log the figures of the step; it has waited for its gradient norm, so the GPU is done."""
        now = time.perf_counter()
        seconds, step, processes = now - self._ended, now - self._began, trainer.world_size
        lengths, run = batch.texts.lengths, batch.texts.distinct_lengths
        full_queries = batch.queries.lengths == self.trained.query_tokens
        full_passages = batch.passages.lengths == self.trained.passage_tokens
        tokens, tokens_run = int(lengths.sum()), int(run.sum())
        padded = padded_tokens(run, length_chunks(run, self.trained.chunk_tokens))
        self.flops = self._flops_per_token * tokens_run
        self.flops += self._reference_flops * self._reference_tokens
        figures = {
            "passages_per_second": processes * len(batch.passages) / seconds,
            "tokens_per_second": processes * tokens / seconds,
            "padding": 1 - tokens_run / padded,
            "at_limit": int(full_queries.sum() + full_passages.sum()) / len(lengths),
            "data_wait": 1 - step / seconds,
        }
        if torch.cuda.is_available():
            figures["peak_memory_gb"] = torch.cuda.max_memory_allocated() / GIGA
            name = torch.cuda.get_device_name()
            for known, gpu in GPUS.items():
                if known in name:
                    figures["mfu"] = self.flops / seconds / gpu.half
        elif peak := process_peak():
            figures["peak_process_gb"] = peak / GIGA
        log_now(pl_module, {f"speed/{n}": v for n, v in figures.items()}, trainer.global_step - 1)
        self._full.update(query=int(full_queries.sum()), passage=int(full_passages.sum()))
        self._texts.update(query=len(full_queries), passage=len(full_passages))
        self._steps += 1
        if self._steps == WARN_AFTER and trainer.is_global_zero:
            self._warn_of_cut_texts()
        self._ended = time.perf_counter()

    def restart_clock(self) -> None:
        """Let the time until now belong to no step, since something else was done in it."""
        self._ended = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn of cut texts, where the run was too short to do so before."""
        if self._steps < WARN_AFTER and trainer.is_global_zero:
            self._warn_of_cut_texts()

    def _warn_of_cut_texts(self) -> None:
        for kind, texts in self._texts.items():
            if self._full[kind] > MOST_CUT * texts:
                limit = getattr(self.trained, f"{kind}_tokens")
                note_warning(cut_warning(f"data.{kind}_tokens", limit, self._full[kind] / texts))

    def _count(self, reference: nn.Module, inputs: tuple[Tokens]) -> None:
        self._reference_tokens += int(inputs[0].distinct_lengths.sum())


def reset_process_peak() -> None:
    """Let `process_peak` count from now on; Linux can, elsewhere nothing happens."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def process_peak() -> int | None:
    """Most bytes of memory that this process has held; None where the system does not say."""
    status = Path("/proc/self/status")
    if not status.is_file():
        return None
    line = re.search(r"^VmHWM:\s+(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE)
    return 1024 * int(line[1]) if line else None


def useful_flops(trained: Encoder, references: int) -> int:
    """FLOPs a token of a training step, nothing counted twice (see `Throughput`).

    Args:
        trained: the encoder that trains; its model may lie on `meta`.
        references: models of its size that run forward on every batch.
    """
    embeddings = trained.backbone.get_input_embeddings().weight.numel()  # type: ignore[operator]
    dense = _dense(trained.backbone) - embeddings - sum(map(_dense, trained.pooled_only))
    adapter = any("lora_" in name for name, _ in trained.backbone.named_parameters())
    flops = dense * ((4 if adapter else 6) + 2 * references)
    if isinstance(trained.head, SparseHead):
        before = _dense(trained.head.transform)
        flops += before * ((6 if trained.head.trained else 4) + 2 * references)
        flops += trained.head.parts[0].numel() * 2 * (1 + references)
    return flops


def _dense(module: nn.Module) -> int:
    return sum(p.numel() for name, p in module.named_parameters() if "lora_" not in name)
