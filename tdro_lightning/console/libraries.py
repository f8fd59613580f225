"""What libraries print: nothing but warnings that a user can act on."""

import logging
import os
import warnings


def quiet_libraries() -> None:
    """Silence progress bars, advertisements and warnings about what we do on purpose."""
    import datasets
    import transformers

    transformers.utils.logging.disable_progress_bar()
    datasets.disable_progress_bars()
    os.environ.setdefault("WANDB_SILENT", "true")
    logging.getLogger("faiss").setLevel(logging.WARNING)
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_load_report)
    for message in (
        r"Found .* module\(s\) in eval mode",  # the reference; the proxy is put in train mode
        r"The 'train_dataloader' does not have many workers",  # data.workers is the user's choice
        r"You're resuming from a checkpoint that ended before the epoch",  # our datamodule can
        r".*isinstance\(treespec, LeafSpec\)",
        r".*is_gradient_checkpointing",  # peft's call, not ours
    ):
        warnings.filterwarnings("ignore", message)


def _is_no_load_report(record: logging.LogRecord) -> bool:
    """Drop the table of missing and unexpected weights: our loaders check them and say so."""
    return "LOAD REPORT" not in record.getMessage()
