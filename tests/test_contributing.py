"""CONTRIBUTING.md is followed letter by letter."""

import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

from tdro_lightning.config.keys import find_faults, key
from tdro_lightning.data.jsonl import write_rows
from tdro_lightning.dro import measurement, transfer
from tdro_lightning.evaluation.evaluate import evaluate
from tdro_lightning.mining.miner import Miner
from tdro_lightning.mining.pool import domain_pool
from tdro_lightning.mining.rule import MiningRule
from tests.command import run, run_code
from tests.evaluation.test_evaluate import LARGE
from tests.made_up import rows, tiny_model, write_domain_option, write_domains
from tests.mining.rankers import pool_ranker

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text()
PYTHON = re.findall(r"^```python\n(.+?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)
YAML = re.findall(r"^```yaml\n(.+?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


def changed(module: ModuleType, source: str) -> ModuleType:
    """The module as it would be with this source."""
    own = ModuleType("changed")
    own.__dict__["__name__"] = module.__name__
    exec(compile(source, str(module.__file__), "exec"), own.__dict__)
    return own


def test_a_measurement_is_one_place() -> None:
    source = Path(str(measurement.__file__)).read_text(encoding="utf-8") + "\n\n" + PYTHON[0]
    own = changed(measurement, source)
    losses = torch.tensor([3.0, 1.0]), torch.tensor([1.0, 2.0])
    got = own.Measurement("squared", 0.0)(*losses, torch.tensor([0, 1]), 2)
    assert got.tolist() == pytest.approx([9.0, 0.25])


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the package, with made-up domains and a small model beside it."""
    shutil.copytree(ROOT / "tdro_lightning", tmp_path / "tdro_lightning")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    tiny_model(tmp_path / "model")
    write_domain_option(tmp_path / "own", write_domains(tmp_path / "rows"))
    return tmp_path


def run_in(copied: Path, code: str) -> None:
    """Run Python code with the copy of the package, which must end well."""
    ended = run_code(copied, code, PYTHONPATH=str(copied))
    assert ended.returncode == 0, ended.stderr


FINETUNE = """
import sys
from tdro_lightning.cli import main
sys.argv[1:] = ["--config-dir=own/conf", "+experiment=finetune_uniform", "domains=made",
    "model=tiny", "model.path=model", "data.query_tokens=96", "data.passage_tokens=16",
    "data.batch_size=4", "data.workers=0", "trainer.steps=2", "trainer.precision=32-true",
    "logger.wandb=disabled", "run_dir=run"]
"""


def test_a_loss_is_one_place(copied: Path) -> None:
    """The first step's loss is that of the example, from the vectors of the untrained model."""
    with (copied / "tdro_lightning/losses/contrastive.py").open("a") as stream:
        stream.write("\n\n" + PYTHON[1])
    run_in(
        copied,
        FINETUNE
        + """
from tdro_lightning.training import finetune
import csv, torch
seen = []
vectors = finetune.CachedEmbeddings
class Noted(vectors):
    def __init__(self, *given):
        super().__init__(*given)
        seen.append(self.vectors.detach())
finetune.CachedEmbeddings = Noted
sys.argv += ["module.loss=margin", "module.temperature=0.3"]
code = main()
assert not code, code
queries, passages = seen[0].tensor_split([4])
scores = queries @ passages.T
losses = [max(0, 0.3 + max(s for j, s in enumerate(row) if j != 2 * i) - row[2 * i])
          for i, row in enumerate(scores.tolist())]
first = next(row for row in csv.DictReader(open("run/history.csv")) if row["metric"] == "loss")
assert abs(float(first["value"]) - sum(losses) / 4) < 1e-6, (first, losses)
""",
    )


def test_a_pooling_is_one_place(copied: Path) -> None:
    """The configuration takes it, and the encoder uses it."""
    with (copied / "tdro_lightning/models/pooling.py").open("a") as stream:
        stream.write("\n\n" + PYTHON[2])
    run_in(
        copied,
        FINETUNE
        + """
import numpy
from tdro_lightning.models.loading import load_encoder
sys.argv += ["stage=plan", "model.pooling=first"]
code = main()
assert not code, code
encoder = load_encoder("model", pooling="first", query_tokens=16, passage_tokens=16)
ids = encoder.tokenizer(["a b c"], 16).ids[None]
first = encoder.backbone(ids).last_hidden_state[0, 0].detach()
vector = encoder.embed_passages(["a b c"])[0]
numpy.testing.assert_allclose(vector, first / first.norm(), atol=1e-6)
""",
    )


def test_a_transfer_rule_is_one_place() -> None:
    source = Path(str(transfer.__file__)).read_text(encoding="utf-8") + "\n\n" + PYTHON[3]
    own = changed(transfer, source)
    sizes, weights = {"a": 10, "b": 20}, {"a": 0.2, "b": 0.8}
    got = own.transfer("tempered", sizes, weights, own.Settings())
    total = math.sqrt(0.2) + math.sqrt(0.8)
    assert got.probability == pytest.approx({"a": math.sqrt(0.2) / total, "b": 2 / 3}, abs=1e-9)
    assert own.rule_title("tempered", own.Settings()) == "tempered"


def test_a_retriever_is_one_file(tmp_path: Path) -> None:
    """It is evaluated, and mines what a ranking by shared words would give."""
    own: dict[str, Any] = {}
    exec(PYTHON[4], own)
    metrics = evaluate({"overlap": own["OverlapRetriever"]()}, {"large": lambda: LARGE}, tmp_path)
    words = [{*document.split()} for document in LARGE.documents]
    reciprocal = []
    for query, text in zip(LARGE.query_ids, LARGE.queries, strict=True):
        shared = [len({*text.split()} & document) for document in words]
        order = sorted((i for i, n in enumerate(shared) if n), key=lambda i: -shared[i])[:10]
        ids = [LARGE.document_ids[i] for i in order]
        ranks = [ids.index(document) + 1 for document in LARGE.qrels[query] if document in ids]
        reciprocal.append(1 / min(ranks) if ranks else 0)
    scores = metrics["retrievers"]["overlap"]["sets"]["large"]
    assert scores["mrr@10"] == pytest.approx(sum(reciprocal) / len(reciprocal))
    given = rows("made", 12, overlap=2)
    pool = domain_pool(given)
    ranker = pool_ranker(
        own["OverlapRetriever"](), pool, [row["query"] for row in given], None, tmp_path
    )
    miner = Miner(given, pool, ranker, MiningRule(3, 9), 0)
    mined, counts = miner.choose(range(12), miner.search(range(12)))
    assert counts["searched"] > 0
    assert [len(row["negative_passages"]) for row in mined] == [3] * 12


def test_a_stage_is_one_file(copied: Path) -> None:
    """Of a copy of the package: nothing else there is touched."""
    (copied / "tdro_lightning/stages/count.py").write_text(PYTHON[6])
    run_in(
        copied,
        """
import sys
from tdro_lightning.cli import main
sys.argv[1:] = ["--config-dir=own/conf", "+experiment=validate", "stage=count", "domains=made",
    "run_dir=run"]
sys.exit(main())
""",
    )
    counts = json.loads((copied / "run/counts.json").read_text())
    assert counts == dict.fromkeys(("easy", "middle", "hard"), 40)
    record = json.loads((copied / "run/run.json").read_text())
    assert set(record["outputs"]) == {"counts.json"}


def test_a_configuration_key_is_one_entry() -> None:
    names: dict[str, Any] = {"dataclass": dataclass, "key": key}
    exec(PYTHON[5], names)
    assert find_faults(names["SketchConfig"](), "sketch.") == []
    assert find_faults(names["SketchConfig"](5000, "bald"), "sketch.") == [
        "sketch.width=5000 must be from 1 to 4,096",
        "sketch.style='bald' must be one of plain, bold; did you mean bold?",
    ]


def test_a_domain_and_a_model_are_a_file_each(capfd, tmp_path: Path) -> None:
    catalogue = write_domains(tmp_path / "rows", count=12)
    write_rows(tmp_path / "rows" / "forum.jsonl", rows("forum", 12, 3))
    tiny_model(tmp_path / "model")
    for group in ("domains", "model"):
        (tmp_path / "conf" / group).mkdir(parents=True)
    (tmp_path / "conf" / "model" / "mine.yaml").write_text(YAML[1])
    own = {"easy": {**catalogue["easy"], "language": "-", "category": "-", "size": None}}
    own["easy"]["prompts"] = ["Find it"]
    own |= yaml.safe_load(YAML[0])
    option = {"root": "rows", "hub": None, "only": None, "catalogue": own}
    (tmp_path / "conf" / "domains" / "mine.yaml").write_text(yaml.safe_dump(option))
    ended = run(
        capfd, tmp_path, "--config-dir=conf", "+experiment=tdro_qwen05b", "model=mine",
        "domains=mine", "module.reference=model", "trainer.steps=2", "trainer.precision=32-true",
        "data.batch_size=4", "data.query_tokens=96", "data.passage_tokens=16", "data.workers=0",
        "logger.wandb=disabled", "run_dir=run",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert '"forum"' in (tmp_path / "run" / "weights.json").read_text()
