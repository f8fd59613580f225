"""Configurations, composed and checked as the command does before it starts anything."""

from collections.abc import Callable
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

import tdro_lightning.config.composition  # noqa: F401
from tdro_lightning.cli import conf_folder
from tdro_lightning.config.benchmarks import benchmark_sets
from tdro_lightning.config.validation import package_folder
from tdro_lightning.runs.inputs import describe_inputs
from tdro_lightning.stages import check_config, stages
from tests.malformed import Case


def given(*overrides: str, experiment: str = "tdro_qwen05b") -> Callable[[Path], None]:
    """Compose, check, and look whether the inputs are there, as the command does."""
    arguments = [f"+experiment={experiment}", "name=n", "run_dir=r", *overrides]

    def use(folder: Path) -> None:
        GlobalHydra.instance().clear()
        OmegaConf.register_new_resolver("package_folder", package_folder, replace=True)
        with initialize_config_dir(str(conf_folder()), version_base="1.3"):
            config = check_config(compose("config", arguments))
        if config.benchmark is not None and config.stage == "evaluate":
            benchmark_sets(config.benchmark)
        describe_inputs(stages()[config.stage], config)

    return use


def fit(*overrides: str) -> Callable[[Path], None]:
    return given("module.reference=reference", *overrides)


def from_file(text: str) -> Callable[[Path], None]:
    """The same with an experiment of another's making."""

    def use(folder: Path) -> None:
        (folder / "conf/experiment").mkdir(parents=True)
        head = "# @package _global_\ndefaults: [tdro_qwen05b]\nmodule: {reference: r}\n"
        (folder / "conf/experiment/theirs.yaml").write_text(head + text)
        given(f"hydra.searchpath=[file://{folder / 'conf'}]", experiment="theirs")(folder)

    return use


TUNED = "finetune_top70"
NAME = "becomes a file's name; it must be ..."
ENTRY = "{file: f.jsonl, language: English, category: Test, symmetric: false, prompts: []}"

CASES = [
    Case("a misspelt key", fit("module.temprature=1"), 2, "...temprature...did you mean module.temperature?..."),
    Case("a misspelt experiment", given(experiment="tdro_qwen5b"), 2, "no experiment tdro_qwen5b; did you mean tdro_qwen05b?..."),
    Case("an option that is not there", fit("model=qwen99b"), 2, "...model/qwen99b..."),
    Case("a text for a number", fit("trainer.steps=many"), 2, "trainer.steps: Value 'many' ..."),
    Case("a list for a number", fit("seed=[1,2]"), 2, "seed: ..."),
    Case("a half step", fit("trainer.steps=1.5"), 2, "trainer.steps: Value '1.5' ..."),
    Case("a key that must be given", given(), 2, "module.reference is not set; give it a value: ..."),
    Case("weights that must be given", given(experiment=TUNED), 2, "transfer.rule=top_share needs transfer.weights=PATH, ..."),
    Case("an environment variable that is not set", fit("model.path=${oc.env:NOT_SET_HERE}"), 2, "model.path: ...Environment variable 'NOT_SET_HERE' not found..."),
    Case("a reference to a key that is not there", fit("model.path=${nowhere}"), 2, "model.path: Interpolation key 'nowhere' not found"),
    Case("temperature 0", fit("module.temperature=0"), 2, "module.temperature=0.0 must be above 0 and at most 1,000"),
    Case("a negative step size", fit("module.weights_lr=-1"), 2, "module.weights_lr=-1.0 must be above 0 and at most 10,000"),
    Case("an average over nothing", fit("module.ema=0"), 2, "module.ema=0.0 must be above 0 and at most 1"),
    Case("smoothing of 1", fit("module.smoothing=1"), 2, "module.smoothing=1.0 must be at least 0 and below 1"),
    Case("a negative floor", fit("module.reference_floor=-1"), 2, "module.reference_floor=-1.0 must be from 0 to 1,000"),
    Case("no negatives for tDRO", fit("data.negatives=0"), 2, "data.negatives must be 1 or more: ..."),
    Case("texts of one token", fit("data.query_tokens=1"), 2, "data.query_tokens=1 must be from 2 to 1,048,576 (a text needs a token beside the last, special one)"),
    Case("fewer rows in a batch than domains", fit("data.batch_size=24"), 2, "data.batch_size=24 must be at least the number of domains, 25: ..."),
    Case("a batch that devices cannot share", fit("strategy=ddp", "trainer.devices=3"), 2, "data.batch_size=2048 must be a multiple of the trainer.devices=3 ..."),
    Case("devices without a strategy", fit("trainer.devices=2"), 2, "trainer.devices=2 needs strategy=ddp or strategy=fsdp; ..."),
    Case("several at once", fit("optimiser.lr=0", "seed=-1"), 2, "seed=-1 must be from 0 to 4,294,967,295\noptimiser.lr=0.0 must be above 0 and at most 1,000"),
    Case("float16", fit("trainer.precision=16-true"), 2, "trainer.precision='16-true' must be one of 32-true, bf16-mixed; did you mean 32-true?"),
    Case("a policy for bad rows that is none", fit("data.on_bad_row=ignore"), 2, "data.on_bad_row='ignore' must be one of error, skip"),
    Case("a reference folder that is not there", fit(), 3, "module.reference=reference: no such folder; ..."),
    Case("a benchmark that is missing", given(experiment="evaluate"), 2, "stage=evaluate needs a benchmark: benchmark=NAME"),
    Case("code in a key", fit("+model._target_=os.system"), 2, "model._target_: a configuration names no code to run; ..."),
    Case("code in a list", fit("+model.architecture.parts=[{_target_: torch.load}]"), 2, "model.architecture.parts[0]._target_: a configuration names ..."),
    Case("code for Hydra's callbacks", fit("+hydra.callbacks.x._target_=os.system"), 2, "hydra.callbacks.x._target_: a configuration names ..."),
    Case("code for a log", from_file("hydra: {job_logging: {handlers: {x: {(): os.system}}}}"), 2, "hydra.job_logging.handlers.x.()='os.system' is not allowed: ..."),
    Case("a key of a tracker", fit("+logger.api_key=0123"), 2, "logger.api_key: looks like a secret, ..."),
    Case("a secret of the environment", fit("description=${oc.env:HOME}"), 2, "description: `${oc.env:...}` is for keys that hold a path, as run_dir, ..."),
    Case("a path named like a secret", fit("model.path=${oc.env:AWS_SECRET_ACCESS_KEY,x}"), 2, "model.path: `${oc.env:...}` is not for AWS_SECRET_ACCESS_KEY, which is named like a secret"),
    Case("a token as a domain's name", fit("+domains.catalogue={hf_abcdefghijklmnopqrst: " + ENTRY + "}"), 2, "domains.catalogue.***.file: looks like a secret, ..."),
    Case("a signed address", fit("domains.hub='https://host/x?sig=abcdef'"), 2, "domains.hub: looks like a secret, ..."),
    Case("a token in a path", fit("model.path=hf_abcdefghijklmnopqrst"), 2, "model.path: looks like a secret, ..."),
    Case("a password in an address", fit("domains.hub='https://me:secret@host/x'"), 2, "domains.hub: looks like a secret, ..."),
    Case("a domain named ../x", from_file("domains: {catalogue: {../x: " + ENTRY + "}}"), 2, f"domains.catalogue: the name '../x' {NAME}"),
    Case("a domain named CON", fit("+domains.catalogue={CON: " + ENTRY + "}"), 2, f"domains.catalogue: the name 'CON' {NAME}"),
    Case("a domain named in 300 letters", fit("+domains.catalogue={" + "a" * 300 + ": " + ENTRY + "}"), 2, f"domains.catalogue: the name ... {NAME}"),
    Case("two domains alike but for case", fit("+domains.catalogue={One: " + ENTRY + ", one: " + ENTRY + "}"), 2, "domains.catalogue: duplicate name 'one', as file systems may not tell upper from lower case"),
    Case("a domain's file outside its folder", fit("domains.catalogue.nq.file=../nq.jsonl"), 2, "domains.catalogue.nq.file='../nq.jsonl' must lie in the folder ..."),
]  # fmt: skip
