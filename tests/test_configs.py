"""Every shipped experiment and option composes and passes the checks."""

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tdro_lightning.cli import conf_folder, experiments
from tdro_lightning.config.schema import Config
from tdro_lightning.config.validation import package_folder
from tdro_lightning.dro.measurement import MEASURES
from tdro_lightning.errors import ConfigError
from tdro_lightning.stages import check_config
from tests.nightly import nightly_but

CONF = conf_folder()
REQUIRED = {
    "tdro_qwen05b": ["module.reference=reference/encoder"],
    "tdro_qwen05b_released": ["module.reference=reference/encoder"],
    "finetune_top70": ["transfer.weights=weights.json"],
    "finetune_reweight": ["transfer.weights=weights.json"],
    "evaluate": ["benchmark=tdro_mini"],
    "evaluate_hybrid": ["benchmark=tdro_mini", "evaluate.encoders.ours=encoder"],
    "evaluate_pruned": ["benchmark=tdro_mini", "evaluate.encoders.ours=encoder"],
    "evaluate_published": ["benchmark=beir15"],
    "import": ["source.layout=beir", "source.path=p", "source.name=n", "source.prompts=[Find it]"],
    "report": ["report.runs=[runs]"],
    "export": ["export.encoder=encoder"],
    "wandb_workspace": ["workspace.entity=me"],
    "mine_corpus": ["mine.corpus=corpus.jsonl", "mine.teacher=cross-encoder"],
}


def options(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str) -> Config:
    GlobalHydra.instance().clear()
    OmegaConf.register_new_resolver("package_folder", package_folder, replace=True)
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return check_config(compose("config", [*overrides, "name=test", "run_dir=run"]))


@pytest.mark.parametrize("name", experiments())
def test_every_experiment_passes_the_checks(name: str) -> None:
    config = composed(f"+experiment={name}", *REQUIRED.get(name, []))
    assert config.description
    assert config.seed == 42


@pytest.mark.parametrize("name", sorted(set(REQUIRED) - {"evaluate", "evaluate_published"}))
def test_what_only_the_user_knows_must_be_given(name: str) -> None:
    with pytest.raises(ConfigError, match=r"is not set; give it|needs transfer\.weights="):
        composed(f"+experiment={name}")


@pytest.mark.parametrize("name", ["evaluate", "evaluate_published"])
def test_an_evaluation_without_benchmark_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="stage=evaluate needs a benchmark"):
        composed(f"+experiment={name}")


FULL = [f"full/{name}" for name in options("model/full")]


@pytest.mark.parametrize("experiment", ["reference_qwen05b", "finetune_uniform"])
@pytest.mark.parametrize("model", [*options("model"), *FULL])
def test_every_model_can_be_fine_tuned(experiment: str, model: str) -> None:
    config = composed(f"+experiment={experiment}", f"model={model}", "chain_dir=runs/demo")
    assert config.model.path


@pytest.mark.parametrize(
    "model", nightly_but(["llama8b", "full/qwen05b"], [*options("model"), *FULL])
)
@pytest.mark.parametrize("experiment", ["tdro_qwen05b", "finetune_top70"])
def test_every_model_trains_sharded_by_changing_the_strategy_only(experiment: str, model: str):
    config = composed(
        f"+experiment={experiment}", f"model={model}", "chain_dir=runs/demo",
        "strategy=fsdp", "trainer.devices=8", *REQUIRED[experiment],
    )  # fmt: skip
    assert (config.strategy.kind, config.trainer.devices) == ("fsdp", 8)
    assert config.strategy.activation_checkpointing
    assert config.data.batch_size == 2048


@pytest.mark.parametrize("strategy", ["single", "ddp"])
def test_offloading_needs_sharding(strategy: str) -> None:
    with pytest.raises(ConfigError, match="cpu_offload needs strategy=fsdp"):
        composed("+experiment=demo/reference", f"strategy={strategy}", "strategy.cpu_offload=true")


@pytest.mark.parametrize("model", FULL)
def test_a_whole_model_is_its_namesake_in_float32_without_adapter(model: str) -> None:
    whole = composed("+experiment=tdro_qwen05b", f"model={model}", "module.reference=r").model
    small = composed("+experiment=finetune_uniform", f"model={model.removeprefix('full/')}").model
    assert whole == replace(small, dtype="float32", lora=None)


def test_a_plan_needs_no_reference() -> None:
    assert composed("+experiment=tdro_qwen05b", "stage=plan").stage == "plan"


def test_the_presets_are_what_their_sources_say() -> None:
    keys = ("measurement", "weights_lr", "gradient_norm", "smoothing", "reference")
    presets = {
        name: composed("+experiment=tdro_qwen05b", f"module={name}", *reference).module
        for name, reference in (
            ("tdro", ["module.reference=r"]),
            ("tdro_released", ["module.reference=r"]),
            ("group_dro", []),
            ("doremi", ["module.reference=r"]),
        )
    }
    assert set(presets) | {"finetune", "mntp"} == set(options("module"))
    shown = {name: tuple(getattr(preset, key) for key in keys) for name, preset in presets.items()}
    assert shown == {
        "tdro": ("ratio", 0.02, "clip", 0.0, "r"),
        "tdro_released": ("released", 0.02, "clip", 0.0, "r"),
        "group_dro": ("plain", 0.01, "none", 0.0, None),
        "doremi": ("difference", 1.0, "none", 0.001, "r"),
    }


@pytest.mark.parametrize("name", ["measurement_tdro_mini", "measurement_pretrained"])
def test_a_study_s_measurements_share_their_reference_losses(name: str) -> None:
    chain = composed(f"+experiment={name}").chain
    assert chain is not None
    learned = [own for experiment, *own in chain.steps.values() if experiment == "demo/tdro"]
    assert len(learned) == 5
    steps = [
        composed("+experiment=demo/tdro", *chain.overrides, *own, "chain_dir=study")
        for own in learned
    ]
    assert {step.module.reference_cache for step in steps} == {"study/reference_losses"}
    assert {step.module.reference for step in steps} == {"study/reference/encoder"}
    # What the draws and the losses of the rows depend on.
    same = [(step.data, step.domains, step.seed, step.trainer, step.model) for step in steps]
    assert all(one == same[0] for one in same)
    assert len({step.module.temperature for step in steps}) == 1


@pytest.mark.nightly  # it composes 30 steps; test_every_experiment_passes_the_checks is by day
def test_the_robustness_study_begins_from_the_measurement_study() -> None:
    chain = composed("+experiment=robustness_tdro_mini", "seed=3").chain
    assert chain is not None
    steps = {
        name: composed(f"+experiment={experiment}", *chain.overrides, *own, "chain_dir=run")
        for name, (experiment, *own) in chain.steps.items()
    }
    tuned = {name: step for name, step in steps.items() if step.stage == "fit"}
    assert chain.source == "runs/measurement_tdro_mini/seed3"
    learned = {name for name, step in tuned.items() if step.module.kind == "tdro"}
    assert learned == {"smooth2", "difference2", "imbalanced_smooth", "imbalanced_difference"}
    for name, step in tuned.items():
        second = name == "reference2"
        assert step.model.path == ("run/model2/model" if second else f"{chain.source}/model/model")
        assert (step.seed == 103) == second
        assert (step.domains.rows is not None) == name.startswith("imbalanced")
    read = {name: step.transfer.weights for name, step in tuned.items()}
    assert read["smooth2_top70"] == "run/smooth2/weights.json"
    assert read["imbalanced_top70"] == "run/imbalanced_smooth/weights.json"
    assert read["noise05"] == read["bottom50"] == f"{chain.source}/smooth/weights.json"
    for name in ("difference2", "imbalanced_difference"):
        assert read[f"{name}_top70"] == f"run/{name}/weights.json"
    for name in ("smooth2", "difference2"):
        assert steps[name].module.reference == "run/reference2/encoder"
    for name in ("imbalanced_smooth", "imbalanced_difference"):
        assert steps[name].module.reference == "run/imbalanced_reference/encoder"
    seeds = [step.transfer.noise_seed for step in tuned.values() if step.transfer.noise]
    assert len(seeds) == len(set(seeds)) == 4
    assert {step.transfer.share for step in tuned.values()} == {50, 60, 70, 80, 90}


def test_repeated_steps_are_those_that_were_once_written_out() -> None:
    """In the same order, with the same overrides; the file holds the lists without `for_each`."""
    path = Path(__file__).parent / "config/workflow_steps.json"
    for name, steps in json.loads(path.read_text()).items():
        chain = composed(f"+experiment={name}", "seed=3", "name=" + name, "model.path=model").chain
        assert chain is not None
        assert chain.for_each == {}
        expected = json.dumps(steps).replace(f"runs/{name}/seed3", "run")
        assert json.dumps(chain.steps) == expected


def test_a_repeated_step_can_be_replaced_and_must_be_named_right() -> None:
    name = "+experiment=measurement_tdro_mini"
    chain = composed(name, "+chain.steps.plain_top70=[demo/finetune_top]").chain
    assert chain is not None
    assert chain.steps["plain_top70"] == ["demo/finetune_top"]
    with pytest.raises(ConfigError, match=r"chain\.steps: the name '\{measurement\}' becomes"):
        composed(name, "~chain.for_each")
    with pytest.raises(ConfigError, match=r"chain\.steps\.x is empty"):
        composed(name, "+chain.steps.x=[]")


def test_a_step_of_several_entries_is_repeated_for_all_their_labels() -> None:
    chain = composed("+experiment=table3").chain
    assert chain is not None
    names = list(chain.steps)
    bases = ("qwen05b", "qwen18b", "qwen4b", "qwen7b", "mistral7b", "llama8b")
    mixtures, benchmarks = ("uniform", "top70", "reweighted"), ("beir", "miracl", "mkqa")
    assert names[:7] == [*(f"{base}_uniform" for base in bases), "tdro"]
    assert names[7:9] == ["qwen05b_top70", "qwen05b_reweighted"]
    evaluated = ["_".join(labels) for labels in product(bases, mixtures, benchmarks)]
    assert names[19:] == [*evaluated, "report"]
    assert chain.steps["llama8b_top70_mkqa"] == [
        *("evaluate", "model=llama8b", "benchmark=mkqa", "evaluate.bm25=false"),
        "+evaluate.encoders.llama8b_top70=run/llama8b_top70/encoder",
    ]


@pytest.mark.parametrize(("group", "key"), [("trainer", "steps"), ("logger", "wandb")])
def test_trainer_and_logger_are_groups_whose_keys_experiments_change(group: str, key: str) -> None:
    for option in options(group):
        config = composed("+experiment=demo/reference", f"{group}={option}")
        assert getattr(getattr(config, group), key) in (400, "offline")


def test_a_measurement_that_needs_a_reference_is_refused_without() -> None:
    with pytest.raises(ConfigError, match=r"module\.measurement=ratio needs module\.reference"):
        composed("+experiment=tdro_qwen05b", "module.reference=null")


@pytest.mark.parametrize("domains", options("domains"))
def test_every_catalogue_can_be_learned_on(domains: str) -> None:
    config = composed(
        "+experiment=tdro_qwen05b", f"domains={domains}", "module.reference=r", "chain_dir=c"
    )
    assert config.domains.catalogue


@pytest.mark.parametrize("strategy", options("strategy"))
def test_every_strategy_composes(strategy: str) -> None:
    config = composed("+experiment=finetune_uniform", f"strategy={strategy}")
    assert config.strategy.kind == strategy


SWEPT = {  # a sweep, and an experiment that it is for
    "mixture_rules": ["+experiment=finetune_mixture"],
    "top_share": ["+experiment=finetune_top70", "transfer.weights=w.json"],
    "weights_lr": ["+experiment=tdro_qwen05b", "module.reference=r"],
    "measurement": ["+experiment=tdro_qwen05b", "module.reference=r"],
    "seeds": ["+experiment=finetune_uniform"],
}


def test_every_sweep_has_an_experiment() -> None:
    assert set(SWEPT) == set(options("sweep"))


@pytest.mark.parametrize("sweep", SWEPT)
def test_every_job_of_a_sweep_passes_the_checks(sweep: str) -> None:
    settings = OmegaConf.load(CONF / "sweep" / f"{sweep}.yaml").hydra
    assert settings.mode == "MULTIRUN"  # without it, -m could be forgotten
    ((key, values),) = settings.sweeper.params.items()
    jobs = [
        composed(*SWEPT[sweep], f"+sweep={sweep}", f"{key}={value}") for value in values.split(",")
    ]
    assert len({str(job) for job in jobs}) == len(jobs) >= 3


def test_the_measurement_sweep_takes_all() -> None:
    swept = OmegaConf.load(CONF / "sweep" / "measurement.yaml").hydra.sweeper.params
    assert set(swept["module.measurement"].split(",")) == set(MEASURES)


@pytest.mark.parametrize("benchmark", options("benchmark"))
def test_every_benchmark_can_be_evaluated(benchmark: str) -> None:
    config = composed("+experiment=evaluate", f"benchmark={benchmark}", "chain_dir=c")
    assert config.benchmark is not None
    assert config.benchmark.sets


def test_wrong_benchmark_settings_come_in_one_message() -> None:
    wrong = ["benchmark.layout=trec", "benchmark.depth=0", "+benchmark.sets.scifact.relevant=0"]
    with pytest.raises(ConfigError) as error:
        composed("+experiment=evaluate", "benchmark=beir_fast", *wrong)
    assert str(error.value).splitlines() == [
        "benchmark.layout='trec' must be one of beir, miracl, mkqa",
        "benchmark.depth=0 must be from 1 to 1,000,000",
        "benchmark.sets.scifact.relevant=0 must be from 1 to 1,000",
    ]


def test_a_misspelt_key_in_an_experiment_file_is_refused(tmp_path: Path) -> None:
    GlobalHydra.instance().clear()
    folder = tmp_path / "experiment"
    folder.mkdir()
    (folder / "mine.yaml").write_text("# @package _global_\nstage: fit\ntrainer: {step: 3}\n")
    overrides = [f"hydra.searchpath=[file://{tmp_path}]", "+experiment=mine", "name=n", "run_dir=r"]
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", overrides)
    with pytest.raises(ConfigError, match=r"key trainer\.step; did you mean trainer\.steps"):
        check_config(config)


def test_package_folder_names_the_extra_to_install() -> None:
    with pytest.raises(ConfigError, match=r"not_installed is not installed.*pretrained"):
        package_folder("not_installed", "model")
