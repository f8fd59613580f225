from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from tdro_lightning.data.collator import Collator
from tdro_lightning.data.dataset import RetrievalDataset
from tdro_lightning.data.domains import Domain, load_domains
from tdro_lightning.datamodules import HeterogeneousDataModule, HomogeneousDataModule
from tdro_lightning.dro.measurement import Measurement
from tdro_lightning.dro.weights import DomainWeights
from tdro_lightning.modules.finetune import FinetuneModule
from tdro_lightning.modules.tdro import TDROModule
from tdro_lightning.optim import Optimisation
from tdro_lightning.parallel import Single, checkpoint_activations
from tdro_lightning.retrieval.encoder import Encoder
from tdro_lightning.retrieval.loading import load_encoder
from tests.made_up import tiny_model, write_domains

NAMES = ["easy", "middle", "hard"]
ENCODER = {"dtype", "lora", "chunk_tokens", "kept_tokens", "activation_checkpointing"}
OPTIMISATION = Optimisation(
    steps=6, lr=1e-2, warmup_steps=2, min_lr_ratio=0.1, weight_decay=0.1, clip_norm=1.0
)


@dataclass(frozen=True)
class Parts:
    """What a training run is made of."""

    domains: list[Domain]
    proxy_path: str
    reference_path: str

    def encoder(self, path: str, **changes: Any) -> Encoder:
        """A fresh encoder of a folder, without dropout unless it has an adapter."""
        checkpointing = changes.pop("activation_checkpointing", False)
        torch.manual_seed(7)
        encoder = load_encoder(path, pooling="last", query_tokens=24, passage_tokens=24, **changes)
        if checkpointing:
            checkpoint_activations(encoder)
        return encoder

    def tdro(self, **changes: Any) -> TDROModule:
        """A tDRO module on fresh encoders; `changes` go to its constructor or to the proxy."""
        own = {key: changes.pop(key) for key in ENCODER & changes.keys()}
        dtype = own.get("dtype", "float32")
        arguments: dict[str, Any] = {
            "weights": DomainWeights(NAMES, learning_rate=0.1),
            "measurement": Measurement("ratio"),
            "temperature": 0.05,
            "optimisation": OPTIMISATION,
            **changes,
        }
        proxy = self.encoder(self.proxy_path, **own)
        reference = self.encoder(self.reference_path, dtype=dtype)
        return TDROModule(proxy, reference, **arguments)

    def finetune(self, **changes: Any) -> FinetuneModule:
        """A fine-tuning module on a fresh encoder; `changes` as for `tdro`."""
        own = {key: changes.pop(key) for key in ENCODER & changes.keys()}
        arguments: dict[str, Any] = {
            "names": NAMES,
            "loss_scale": [1.0, 1.0, 1.0],
            "temperature": 0.05,
            "optimisation": OPTIMISATION,
            **changes,
        }
        return FinetuneModule(self.encoder(self.proxy_path, **own), **arguments)

    def heterogeneous(
        self, encoder: Encoder, workers: int = 0, batch_size: int = 12, steps: int = 6
    ) -> HeterogeneousDataModule:
        """Batches of every domain with 3 hard negatives a query."""
        data = self._data(encoder, 3, workers)
        return HeterogeneousDataModule(**{**data, "batch_size": batch_size, "steps": steps})

    def homogeneous(
        self, encoder: Encoder, workers: int = 0, steps: int = 6
    ) -> HomogeneousDataModule:
        """Batches of 12 of one domain, one hard negative a query."""
        data = self._data(encoder, 1, workers) | {"steps": steps}
        return HomogeneousDataModule(**data, probability=[0.5, 0.25, 0.25])

    def _data(self, encoder: Encoder, negatives: int, workers: int) -> dict[str, Any]:
        return {
            "dataset": RetrievalDataset(self.domains, negatives, seed=3),
            "collate": Collator(encoder.tokenizer, 24, 24),
            "batch_size": 12,
            "steps": 6,
            "seed": 3,
            "workers": workers,
        }


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Parts:
    """Three domains, a proxy and another model as reference."""
    folder = tmp_path_factory.mktemp("parts")
    catalogue = write_domains(folder)
    domains = load_domains(catalogue, root=str(folder), hub=None, only=None)
    model = tiny_model(folder / "proxy", seed=0)
    return Parts(domains, model, tiny_model(folder / "reference", seed=1))


@pytest.fixture
def fit(tmp_path: Path) -> Callable[..., Trainer]:
    """Train a module for some steps on the CPU; further arguments go to the Trainer or to fit."""

    def train(module: LightningModule, data: Any, steps: int = 6, **changes: Any) -> Trainer:
        checkpoint = changes.pop("ckpt_path", None)
        trainer = Trainer(
            max_steps=steps,
            max_epochs=-1,
            accelerator="cpu",
            strategy=Single("cpu"),
            logger=changes.pop("logger", False),
            log_every_n_steps=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path,
            **changes,
        )
        trainer.fit(module, data, ckpt_path=checkpoint)
        return trainer

    return train
