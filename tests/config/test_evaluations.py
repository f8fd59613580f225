"""Configurations of evaluations and of the Lion workflows, composed and checked."""

import pytest

from tdro_lightning.config.constraints import fusion_rules
from tdro_lightning.errors import ConfigError
from tests.test_configs import REQUIRED, composed

FUSED = "+evaluate.fusions.both"
WRONG_FUSIONS = {
    "a misspelt retriever": (["of=[bm25,our]"], r"fusions\.both\.of: 'our' is no .*mean ours\?"),
    "a fusion of a fusion": (["of=[bm25,bm25+ours]"], r"both\.of: 'bm25\+ours' is no evaluated"),
    "one retriever": (["of=[bm25]"], r"both\.of=\['bm25'\] must name two different retrievers"),
    "a retriever twice": (["of=[bm25,bm25]"], "must name two different retrievers or more"),
    "no retrievers": (["rule=rrf"], r"both\.of is not set"),
    "a rule of no name": (["of=[bm25,ours]", "rule=mean"], r"rule='mean' must be one of rrf, w"),
    "no weights": (["of=[bm25,ours]", "rule=weighted"], r"weights=null must be 2 numbers, one f"),
    "a weight too few": (
        ["of=[bm25,ours]", "rule=weighted", "weights=[1]"],
        r"both\.weights=\[1\.0\] must be 2 numbers, one for each of `of`",
    ),
    "weights of ranks": (["of=[bm25,ours]", "weights=[1,2]"], "weights are for rule=weighted"),
    "a weight of 0": (
        ["of=[bm25,ours]", "rule=weighted", "weights=[0,1]"],
        r"evaluate\.fusions\.both\.weights\[0\]=0\.0 must be above 0",
    ),
}


@pytest.mark.parametrize("kind", WRONG_FUSIONS)
def test_fusions_that_cannot_be_are_refused_in_one_line(kind: str) -> None:
    given, message = WRONG_FUSIONS[kind]
    with pytest.raises(ConfigError, match=message) as error:
        composed(
            "+experiment=evaluate_hybrid", *REQUIRED["evaluate_hybrid"],
            *(f"{FUSED}.{one}" for one in given),
        )  # fmt: skip
    assert "\n" not in str(error.value)


def test_labels_of_fusions_are_their_own() -> None:
    hybrid = ("+experiment=evaluate_hybrid", *REQUIRED["evaluate_hybrid"])
    for label in ("bm25", "ours"):
        with pytest.raises(ConfigError, match=rf"fusions\.{label}: a retriever has this label too"):
            composed(*hybrid, f"+evaluate.fusions.{label}.of=[bm25,ours]")
    with pytest.raises(ConfigError, match="'bm25' is no evaluated retriever; there are ours"):
        composed(
            *hybrid, "evaluate.bm25=false", "~evaluate.fusions", f"{FUSED}.of=[bm25,ours]"
        )  # fmt: skip
    config = composed(*hybrid, f"{FUSED}.of=[bm25,'ours (64)']")  # a prefix, which only it knows
    assert config.evaluate is not None
    config.evaluate.encoders["ours (v2)"] = "encoder"
    config.evaluate.fusions["both"].of = ["ours (v2)", "ours (v2) (64)"]
    assert fusion_rules(config) == []
    assert config.evaluate.fusions["bm25+ours weighted"].weights == [0.3, 0.7]


def test_published_models_are_read_as_the_paper_evaluates_them() -> None:
    path = "tdro-llm/s2-tdro-Qwen1.5-0.5B-top70"
    given = ["benchmark=beir15", f"+evaluate.encoders.top70={path}"]
    config = composed("+experiment=evaluate_published", *given)
    model, data = config.model, config.data
    assert (model.pooling, model.dtype, model.bidirectional) == ("last", "bfloat16", None)
    assert model.query_template == "Instruct: {task}\nQuery: {text}"
    assert model.passage_template == "{text}"
    assert (data.query_tokens, data.passage_tokens) == (128, 512)
    assert config.evaluate is not None
    assert config.evaluate.encoders == {"top70": path}


@pytest.mark.parametrize("kind", ["sp", "ds"])
@pytest.mark.parametrize("model", ["llama32_1b", "llama32_3b", "llama8b", "qwen05b"])
def test_the_lion_workflows_are_what_the_paper_s_scripts_say(kind: str, model: str) -> None:
    chain = composed(f"+experiment=lion_{kind}", f"model={model}").chain
    assert chain is not None
    assert list(chain.steps) == ["adapt", "tuned", "trec_dl", "beir", "report"]
    adapt, tuned = (
        composed(f"+experiment={experiment}", *chain.overrides, *own, f"model={model}")
        for experiment, *own in (chain.steps["adapt"], chain.steps["tuned"])
    )
    base = composed("+experiment=finetune_uniform", f"model={model}").model.path
    assert (adapt.model.path, tuned.model.path) == (base, "run/adapt/encoder")
    for step in (adapt, tuned):
        assert (step.seed, step.domains.only) == (45, ["msmarco"])
        assert (step.model.bidirectional, step.trainer.precision) == (True, "bf16-mixed")
        lora = step.model.lora
        assert lora is not None
        assert (lora.r, lora.alpha, lora.dropout) == (16, 32, 0.05)
        optimiser = step.optimiser
        assert (optimiser.schedule, optimiser.min_lr_ratio) == ("linear", 0.0)
        assert (optimiser.weight_decay, optimiser.clip_norm) == (0.0, 1.0)
    assert (adapt.module.kind, adapt.module.masked) == ("mntp", 0.2)
    assert (adapt.data.batch_size, adapt.data.passage_tokens) == (32, 512)
    assert (adapt.trainer.steps, adapt.optimiser.lr) == (10_000, 5e-5)
    data, optimiser, steps = tuned.data, tuned.optimiser, tuned.trainer.steps
    assert (data.batch_size, data.negatives) == (112, 16)
    assert (data.query_tokens, data.passage_tokens) == (64, 128)
    assert (optimiser.lr, optimiser.warmup_steps, steps) == (1e-4, round(0.04 * steps), 33_250)
    assert tuned.model.pooling == "mean_of_unit_tokens"
    assert tuned.model.query_template == tuned.model.passage_template == "{text}"
    module, dense = tuned.module, kind == "ds"
    assert (tuned.model.head, tuned.model.normalized) == (
        ("dense", False) if dense else ("sparse", True)
    )
    assert module.temperature == (0.01 if dense else 1.0)
    if not dense:
        assert tuned.model.sparse.scale == "quarter"
        sparsity = module.sparsity
        assert (sparsity.kind, sparsity.queries, sparsity.passages) == ("flops", 0.05, 0.04)
        assert round(sparsity.ramp * steps) == round(steps / 3)
