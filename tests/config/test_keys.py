"""Every key of the schema refuses what its entry does not allow, and the message names the key."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf, open_dict

from tdro_lightning.cli import conf_folder
from tdro_lightning.config.keys import Limits, table_names
from tdro_lightning.config.schema import MODULES, Config
from tdro_lightning.config.training import find_split_prompt
from tdro_lightning.dro.measurement import MEASURES
from tdro_lightning.dro.transfer import RULES
from tdro_lightning.dro.weights import GradientNorm
from tdro_lightning.errors import ConfigError
from tdro_lightning.stages import check_config
from tests.nightly import nightly_but

ROOT = Path(__file__).parents[2]
LABEL = "one"  # of an entry in a table, which is there in the base configuration
SECTIONS = {  # an experiment that uses the section
    "validation": "finetune_validated",
    "evaluate": "evaluate",
    "source": "import",
    "harvest": "demo/harvest",
    "mine": "mine_bm25",
    "decontaminate": "decontaminate_tdro_mini",
    "report": "report",
    "export": "export",
    "chain": "demo",
    "workspace": "wandb_workspace",
}
GIVEN = {  # what no file gives, and an entry in each table
    "source.layout": "beir",
    "export.encoder": "encoder",
    "mixture.formats": ["flag_embedding"],
    "model.dimensions": [8],
    "report.runs": ["runs"],
    "workspace.entity": "me",
    "mine.input": "rows",
    "benchmark.sets.one": {"folder": "scifact"},
    "evaluate.encoders.one": "encoder",
    "evaluate.fusions.one": {"of": ["one", "bm25"], "rule": "weighted", "weights": [2.0, 1.0]},
    "domains.rows": {"one": 5},
    "domains.only": ["nq", "one"],
    "source.columns": {"query": "q", "positive": "p"},
    "source.prompts": ["Find it"],
    "export.prompts.one": "Find it",
    "chain.steps.one": ["demo/tdro"],
    "chain.overrides": ["seed=1"],
    "chain.for_each.one.one": ["seed=1"],
    "chain.next.one": "python -m tdro_lightning",
    "chain.source": None,
    "transfer.given": {"one": 2.0, "nq": 1.0},
    "transfer.keep": ["one"],
    "transfer.drop": ["nq"],
    "transfer.least": {"one": 0.1},
    "transfer.most": {"one": 0.9},
    "model.tiny": {"vocabulary": 600, "width": 16, "layers": 1, "heads": 2},
}


@dataclass(frozen=True)
class Key:
    """One key of the schema with what it may hold."""

    name: str
    kind: Any  # str, int, float, bool, list or dict
    limits: Limits


def schema_keys(kind: Any = Config, place: str = "") -> Iterator[Key]:
    """Every key, those of tables and of both modules too."""
    for field in fields(kind):
        name = f"{place}{field.name}"
        limits = field.metadata.get("limits", Limits())
        if name == "module":
            for module in MODULES.values():
                yield from schema_keys(module, f"{module.kind}:module.")
        else:
            yield from of_hint(name, get_type_hints(kind)[field.name], limits)


def of_hint(name: str, hint: Any, limits: Limits) -> Iterator[Key]:
    kinds = [kind for kind in get_args(hint) if kind is not NoneType]
    hint = kinds[0] if NoneType in get_args(hint) else hint
    origin = get_origin(hint)
    if is_dataclass(hint):
        yield from schema_keys(hint, f"{name}.")
    elif origin in (list, dict):
        yield Key(name, origin, limits)
        part = "[0]" if origin is list else f".{LABEL}"
        yield from of_hint(name + part, get_args(hint)[-1], limits)
    else:
        yield Key(name, hint, limits)


KEYS = [key for key in schema_keys() if not key.name.endswith("module.kind")]


def outside(key: Key) -> list[Any]:
    """Values that a key must refuse."""
    limits = key.limits
    if key.kind is Any:
        return [float("nan"), {"deep": [float("inf")]}]
    if key.kind in (list, dict):
        return [5]
    if key.kind is str:
        return [["a list"], {"a": "table"}, *(["no_such_choice"] if limits.choices else [])]
    if key.kind is bool:
        return ["maybe", 1.5, float("nan"), ["a list"]]
    values: list[Any] = [float("nan"), float("inf"), "many"]
    values += [bound for bound in (limits.above, limits.below) if bound is not None]
    step = 1 if key.kind is int else 1e-3
    values += [limits.at_least - step] if limits.at_least is not None else []
    most = 10**20 if limits.at_most is None else limits.at_most * 1.001
    return [*values, int(most) + 1 if key.kind is int else most]


@pytest.fixture(scope="module")
def bases() -> dict[str, DictConfig]:
    """A configuration in which every section is in use, for each kind of module."""
    GlobalHydra.instance().clear()
    experiments = {"tdro": "tdro_qwen05b", "finetune": "finetune_uniform", "mntp": "adapt"}
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        names = ["name=test", "run_dir=run", "chain_dir=run", "benchmark=beir_fast"]
        found = {
            kind: compose("config", [f"+experiment={experiment}", *names])
            for kind, experiment in experiments.items()
        }
        parts = {
            section: compose("config", [f"+experiment={experiment}", *names[:3]])[section]
            for section, experiment in SECTIONS.items()
        }
    for base in found.values():
        OmegaConf.set_struct(base, False)
        for section, part in parts.items():
            base[section] = part
        entry = base.domains.catalogue.nq
        base.domains.catalogue = {"nq": entry, LABEL: entry}  # few, as all are checked each time
        base.benchmark.sets = {}
        for key, value in GIVEN.items():
            OmegaConf.update(base, key, value, force_add=True)
    found["mntp"].validation = None  # it is for training with queries
    found["tdro"].module.reference = "reference"
    found["tdro"].model.dimensions = None  # of fine-tuning
    return found


def test_the_base_configurations_are_right(bases: dict[str, DictConfig]) -> None:
    for base in bases.values():
        check_config(base)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: key.name)
def test_a_value_outside_is_refused_by_the_key_s_name(key: Key, bases) -> None:
    module, _, name = key.name.rpartition(":")
    named = name.partition("[")[0].replace(".one.one", ".one")  # OmegaConf names the outer table
    of_one = "finetune" if name.startswith("model.dimensions") else "tdro"
    for value in outside(key):
        changed = bases[module or of_one].copy()
        with open_dict(changed):
            OmegaConf.update(changed, name, value, force_add=True, merge=False)
        with pytest.raises(ConfigError) as error:
            check_config(changed)
        message = str(error.value)
        assert named in message, (value, message)
        assert "\n" not in message, (value, message)


def test_every_number_has_both_bounds() -> None:
    for key in KEYS:
        if key.kind in (int, float):
            low = (key.limits.above, key.limits.at_least)
            high = (key.limits.below, key.limits.at_most)
            assert any(bound is not None for bound in low), key.name
            assert any(bound is not None for bound in high), key.name
    assert len(KEYS) > 130


def test_choices_that_the_core_defines_are_the_core_s() -> None:
    choices = {key.name.rpartition(":")[2]: key.limits.choices for key in KEYS}
    assert choices["module.measurement"] == tuple(MEASURES)
    assert choices["transfer.rule"] == tuple(RULES)
    assert choices["module.gradient_norm"] == get_args(GradientNorm)


def test_a_name_that_is_added_to_a_table_is_a_choice(tmp_path: Path) -> None:
    path = tmp_path / "table.py"
    path.write_text('NAMES: dict[str, int] = {"a": 1}\nOTHER = {"c": 1}\nNAMES["b"] = 2\n')
    assert table_names(str(path), "NAMES") == ("a", "b")


THROUGH_THE_COMMAND = {
    "seed": "4294967296",
    "trainer.steps": "99999999999999999999",
    "data.negatives": "1000000",
    "data.batch_size": "100000000",
    "module.temperature": "nan",
    "module.weights_lr": "inf",
    "module.reference_floor": "nan",
    "module.measurement": "diff",
    "module.gradient_norm": "clipp",
    "optimiser.lr": "inf",
    "optimiser.weight_decay": "nan",
    "optimiser.clip_norm": "nan",
    "optimiser.warmup_steps": "1e99",
    "trainer.max_hours": "inf",
    "trainer.precision": "16-mixed",
    "trainer.threads": "100000",
    "data.query_tokens": "1",
    "data.workers": "many",
    "transfer.share": "nan",
    "transfer.rule": "top",
    "plan.mfu": "1.5",
    "strategy.cpu_offload": "perhaps",
}


@pytest.mark.parametrize(
    "key", nightly_but(["trainer.steps", "module.measurement"], THROUGH_THE_COMMAND)
)
def test_the_command_ends_with_one_line(key: str, tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "tdro_lightning", "+experiment=tdro_qwen05b",
         "module.reference=reference", "run_dir=run", f"{key}={THROUGH_THE_COMMAND[key]}"],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    lines = ended.stderr.splitlines()
    message = [line for line in lines if not line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip() for line in lines if "import time:" in line}
    assert ended.returncode == 2
    assert len(message) == 1
    assert message[0].startswith("error: ")
    assert key in message[0]
    assert not imported & {"torch", "transformers", "lightning"}


def test_a_measurement_gets_the_nearest_name(bases) -> None:
    changed = bases["tdro"].copy()
    changed.module.measurement = "diff"
    with pytest.raises(
        ConfigError, match=r"measurement='diff' must be .*did you mean difference\?"
    ):
        check_config(changed)


def test_a_dot_in_a_label_is_explained(bases) -> None:
    changed = bases["tdro"].copy()
    OmegaConf.update(changed, "evaluate.encoders.bge-base-v1.5", "FOLDER", force_add=True)
    with pytest.raises(ConfigError) as error:
        check_config(changed)
    assert str(error.value) == (
        "evaluate.encoders.bge-base-v1 must be a single value; a dot in a label splits the key, "
        "so write '+evaluate.encoders={bge-base-v1.5: FOLDER}'"
    )


def test_one_prompt_may_be_given_as_a_text(bases) -> None:
    changed = bases["tdro"].copy()
    sentence = "Given a question, retrieve its answer"
    changed.source.prompts = sentence
    changed.domains.catalogue.nq.prompts = sentence
    config = check_config(changed)
    assert config.source is not None
    assert config.source.prompts == config.domains.catalogue["nq"].prompts == [sentence]


@pytest.mark.parametrize("place", ["source", "domains.catalogue.nq"])
def test_a_sentence_that_was_split_is_refused(place: str, bases) -> None:
    changed = bases["tdro"].copy()
    OmegaConf.update(changed, f"{place}.prompts", ["Given a question", "retrieve its answer"])
    with pytest.raises(ConfigError) as error:
        check_config(changed)
    assert str(error.value).startswith(f"{place}.prompts: 2 prompts that look like one sentence")
    assert f"'{place}.prompts=\"Given a question, retrieve its answer\"'" in str(error.value)
    assert find_split_prompt("x", ["Find it", "Retrieve it"]) == []
    assert find_split_prompt("x", ["find it", "retrieve it"]) == []
