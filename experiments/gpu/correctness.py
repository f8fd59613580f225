"""Whether the GPU trains as the CPU does: losses, domain weights, parameters, dropout."""

from dataclasses import dataclass, field, replace
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from probe import Probe
from torch import Tensor
from torch.utils.data import DataLoader

from tdro_lightning.data.collator import Batch
from tdro_lightning.losses import domain_gradients as gradients
from tdro_lightning.losses.gradient_cache import CachedEmbeddings
from tdro_lightning.models.encoder import Encoder
from tdro_lightning.models.sparse_rows import whole
from tdro_lightning.models.tokens import Tokens
from tdro_lightning.training.tdro import TDROModule

ARCHITECTURE = {
    "model_type": "qwen2",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2000,
}
TINY = ARCHITECTURE | {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
EASY = 10  # domains whose positives begin as their queries do, so that the weights move
EVERYTHING = 10**9
ALLOWED = {"32-true": 2e-3, "bf16-mixed": 0.15}  # largest difference of a loss


@dataclass(frozen=True)
class Way:
    """How a step is run."""

    title: str
    full: bool = False
    kept_tokens: int = EVERYTHING
    one_pass: bool = False


WAYS = (
    Way("lora, all kept"),
    Way("lora, one pass", one_pass=True),
    Way("lora, cached", kept_tokens=0),
    Way("full, cached", full=True, kept_tokens=0),
)


@dataclass
class Trained(Callback):
    """Losses and domain weights after each step, and the parameters at the end."""

    losses: list[float] = field(default_factory=list)
    weights: list[list[float]] = field(default_factory=list)
    parameters: Tensor = field(default_factory=lambda: torch.zeros(0))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *rest: Any) -> None:
        """Keep what the step has logged."""
        self.losses.append(float(trainer.callback_metrics["loss"]))
        if isinstance(pl_module, TDROModule):
            self.weights.append(pl_module.weights.log_weights.detach().cpu().exp().tolist())


def measure(probe: Probe, name: str) -> None:
    """Record each way of each stage against the CPU in float32, then dropout and chunks."""
    torch.set_float32_matmul_precision("highest")
    for stage in ("tdro", "finetune"):
        for way in WAYS[1:3] if probe.dry else WAYS:
            if way.one_pass and stage != "tdro":
                continue
            bases: list[Trained] = []
            for precision in ALLOWED:
                probe.attempt(
                    f"{stage}, {way.title}, {precision}",
                    lambda stage=stage, way=way, precision=precision, bases=bases: _compared(
                        probe, stage, way, precision, bases
                    ),
                )
    for precision in ALLOWED:
        probe.attempt(f"dropout, {precision}", lambda p=precision: _replayed(probe, p))
    probe.attempt("chunks, bf16", lambda: _chunked(probe))


def _compared(
    probe: Probe, stage: str, way: Way, precision: str, bases: list[Trained]
) -> dict[str, Any]:
    """A run on the GPU against the same one on the CPU, which is made once."""
    if not bases:
        bases.append(_trained(probe, stage, way, "cpu", "32-true"))
    base, found = bases[0], _trained(probe, stage, way, probe.device, precision)
    apart = [abs(a - b) for a, b in zip(base.losses, found.losses, strict=True)]
    moved = [
        abs(a - b)
        for before, after in zip(base.weights, found.weights, strict=True)
        for a, b in zip(before, after, strict=True)
    ]
    norm = (found.parameters - base.parameters).norm() / base.parameters.norm()
    return {
        "losses": base.losses,
        "largest_loss_difference": max(apart),
        "first_loss_difference": apart[0],
        "relative_parameter_difference": float(norm),
        "largest_weight_difference": max(moved) if moved else None,
        "last_weights": [min(base.weights[-1]), max(base.weights[-1])] if moved else None,
        "agrees": max(apart) < ALLOWED[precision],
    }


def _trained(probe: Probe, stage: str, way: Way, device: str, precision: str) -> Trained:
    from steps import NEGATIVES, Settings, batches, encoder, module, trainer

    settings = Settings(
        full=way.full,
        lora_dropout=0.0,
        batch=25 if probe.dry else 50,
        query_tokens=16,
        passage_tokens=48,
        chunk_tokens=1024,
        kept_tokens=way.kept_tokens,
        steps=2 if probe.dry else 8,
        warmup=0,
        device="cpu",  # where it is made, so that both begin alike
        precision=precision,
    )
    model = {"dtype": "float32", "architecture": TINY if probe.dry else ARCHITECTURE}
    torch.manual_seed(1)
    proxy = encoder(settings, model, 0, trained=True)
    made = module(stage, settings, model, proxy)
    made.optimisation = replace(made.optimisation, lr=1e-3, warmup_steps=1)
    made.temperature = 0.05
    if stage == "tdro":
        made.weights.learning_rate = 0.3
    rows = [_easier(b) for b in batches(stage, settings, NEGATIVES[stage], 2000)]
    found, chosen = Trained(), gradients.one_pass_groups
    if way.one_pass:
        gradients.one_pass_groups = _by_domain
    try:
        run = trainer(replace(settings, device=device), len(rows), found)
        run.fit(made, DataLoader(rows, batch_size=None))
    finally:
        gradients.one_pass_groups = chosen
    trained = [p.detach().cpu().float().flatten() for p in proxy.parameters() if p.requires_grad]
    found.parameters = torch.cat(trained)
    return found


def _by_domain(encoder: Encoder, batch: Batch) -> list[Tensor]:
    domain = batch.domain.cpu()
    return [(domain == index).nonzero().flatten() for index in domain.unique()]


def _easier(batch: Batch) -> Batch:
    """The batch with positives of easy domains that begin as their queries do."""
    queries, passages = batch.queries, batch.passages
    each = len(passages) // len(queries)
    for row in (batch.domain < EASY).nonzero().flatten().tolist():
        size = min(int(queries.lengths[row]), int(passages.lengths[row * each]))
        start, first = int(queries.starts[row]), int(passages.starts[row * each])
        passages.ids[first : first + size] = queries.ids[start : start + size]
    return batch


def _replayed(probe: Probe, precision: str) -> dict[str, Any]:
    """Chunks that run twice have the dropout of their first run: gradients with all, none kept."""
    from steps import Settings, encoder

    found = []
    model = {"dtype": "float32", "architecture": TINY if probe.dry else ARCHITECTURE}
    for kept in (EVERYTHING, 0):
        settings = Settings(lora_dropout=0.3, device="cpu", chunk_tokens=512, kept_tokens=kept)
        torch.manual_seed(1)
        made = encoder(settings, model, 0, trained=True).to(probe.device).train()
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.02)
        torch.manual_seed(2)
        ids, lengths = torch.randint(2000, (40 * 32,)), torch.full((40,), 32)
        mixed = precision == "bf16-mixed"
        with torch.autocast(probe.device, torch.bfloat16, enabled=mixed):
            cache = CachedEmbeddings(made, Tokens(ids, lengths).to(probe.device), (3, 1, 0))
            coefficients = torch.arange(40, device=probe.device)
            (whole(cache.vectors)[:, 0] * coefficients).sum().backward()
            cache.backward()
        taken = (p.grad.flatten().float() for p in made.parameters() if p.grad is not None)
        found.append(torch.cat(list(taken)))
    difference = float((found[0] - found[1]).norm() / found[0].norm())
    return {"relative_difference": difference, "agrees": difference < 1e-3}


def _chunked(probe: Probe) -> dict[str, Any]:
    """A text's vector does not depend on the texts beside it, rounding apart."""
    from steps import Settings, encoder

    torch.manual_seed(3)
    lengths = torch.randint(3, 48, (200,))
    ids = torch.randint(2000, (int(lengths.sum()),))
    model = {"dtype": "float32", "architecture": TINY if probe.dry else ARCHITECTURE}
    vectors = []
    for chunk in (256, 4096):
        settings = Settings(full=True, device="cpu", chunk_tokens=chunk)
        made = encoder(settings, model, 0, trained=False).to(probe.device).eval()
        with torch.no_grad(), torch.autocast(probe.device, torch.bfloat16):
            vectors.append(made(Tokens(ids, lengths).to(probe.device)).cpu())
    least = float((vectors[0] * vectors[1]).sum(1).min())
    return {"least_cosine": least, "agrees": least > 0.999}
