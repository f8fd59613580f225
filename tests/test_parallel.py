"""Two real processes against one: the same losses, domain weights and parameters."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from lightning import LightningModule, Trainer

from tdro_lightning.data.domains import load_domains
from tdro_lightning.errors import ConfigError
from tdro_lightning.parallel import SummedGradients, strategy
from tests.made_up import tiny_model, write_domain_option, write_domains
from tests.modules.conftest import Parts

STAGES = {"tdro": "heterogeneous", "finetune": "homogeneous"}


def trained(folder: Path, stage: str, changes: dict, plan: object) -> LightningModule:
    """Six float64 steps of a stage under a strategy."""
    torch.set_num_threads(1)
    domains = load_domains(write_domains(folder), root=str(folder), hub=None, only=None)
    parts = Parts(domains, str(folder / "proxy"), str(folder / "reference"))
    module = getattr(parts, stage)(dtype="float64", **changes)
    encoder = module.proxy if stage == "tdro" else module.encoder
    trainer = Trainer(
        max_steps=6, max_epochs=-1, accelerator="cpu", strategy=plan, logger=False,
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")), enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, use_distributed_sampler=False,
    )  # fmt: skip
    trainer.fit(module, getattr(parts, STAGES[stage])(encoder))
    return module


def state(module: LightningModule) -> dict:
    weights = module.weights.state_dict() if hasattr(module, "weights") else {}
    return {"parameters": module.state_dict(), "weights": weights}


def work(number: int, folder: Path, stage: str, changes: dict) -> None:
    os.environ |= {"RANK": str(number), "LOCAL_RANK": str(number), "WORLD_SIZE": "2"}
    os.environ |= {"LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "test"}
    module = trained(folder, stage, changes, SummedGradients(process_group_backend="gloo"))
    torch.save(state(module), folder / f"{stage}-{number}.pt")


@pytest.mark.parametrize(
    ("stage", "changes"),
    [("tdro", {}), ("tdro", {"chunk_rows": 4}), ("finetune", {})],
    ids=["tdro", "tdro in chunks", "finetune"],
)
def test_two_processes_equal_one(tmp_path: Path, monkeypatch, stage: str, changes: dict) -> None:
    tiny_model(tmp_path / "proxy", seed=0)
    tiny_model(tmp_path / "reference", seed=1)
    alone = state(trained(tmp_path, stage, {}, "auto"))
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    mp.spawn(work, args=(tmp_path, stage, changes), nprocs=2)
    for number in range(2):
        theirs = torch.load(tmp_path / f"{stage}-{number}.pt")
        for part in ("parameters", "weights"):
            for name, value in alone[part].items():
                if isinstance(value, torch.Tensor):
                    torch.testing.assert_close(
                        theirs[part][name], value, rtol=0, atol=1e-10, equal_nan=True, msg=name
                    )


def free_port() -> int:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tDRO run by torchrun with two processes, and the same run with one."""
    folder = tmp_path_factory.mktemp("launched")
    catalogue = write_domains(folder / "rows")
    tiny_model(folder / "model")
    tiny_model(folder / "reference", seed=1)
    write_domain_option(folder, catalogue)
    one = [sys.executable, "-m", "tdro_lightning"]
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    two += ["-m", "tdro_lightning"]
    spread = ["strategy=ddp", "trainer.devices=2"]
    for command, output, own in ((one, "one", []), (two, "two", spread)):
        arguments = [
            "--config-dir=conf", "+experiment=tdro_qwen05b", "domains=made", "model.path=model",
            "module.reference=reference", "data.batch_size=6", "data.query_tokens=16",
            "data.passage_tokens=16", "data.workers=0", "model.lora=null", "trainer.steps=4",
            "trainer.precision=32-true", "logger.wandb=disabled", f"run_dir={output}",
        ]  # fmt: skip
        ended = subprocess.run(
            [*command, *arguments, *own], cwd=folder, capture_output=True, text=True, timeout=200
        )
        assert ended.returncode == 0, ended.stderr
    return folder


def test_torchrun_writes_one_run_with_the_same_weights(launched: Path) -> None:
    one, two = (json.loads((launched / d / "weights.json").read_text()) for d in ("one", "two"))
    for key in ("domain_weights", "mean_weights", "ema_weights"):
        assert two[key] == pytest.approx(one[key], abs=1e-5)
    assert two["size"] == one["size"]
    assert sorted(p.name for p in (launched / "two").iterdir()) == sorted(
        p.name for p in (launched / "one").iterdir()
    )
    histories = [(launched / d / "history.csv").read_text().splitlines() for d in ("one", "two")]
    assert len(histories[0]) == len(histories[1])


def test_processes_and_configuration_must_agree(monkeypatch) -> None:
    assert strategy("single", 1) == "auto"
    with pytest.raises(ConfigError, match=r"trainer\.devices=2; use strategy=ddp"):
        strategy("single", 2)
    with pytest.raises(ConfigError, match=r"torchrun --nproc-per-node 2"):
        strategy("ddp", 2)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert isinstance(strategy("ddp", 2), SummedGradients)
    with pytest.raises(ConfigError, match="strategy=single is one process"):
        strategy("single", 1)
