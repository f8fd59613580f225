import io
import re

import pytest
from lightning import Callback, Trainer
from rich.console import Console

from tdro_lightning.training.callbacks.progress import Progress, State
from tdro_lightning.training.history import History


def test_lines_say_how_far_how_fast_and_how_long(parts, fit, capfd) -> None:
    module = parts.tdro()
    fit(module, parts.heterogeneous(module.proxy), callbacks=[Progress("demo", seconds=0.0)])
    printed = capfd.readouterr().out
    assert max(map(len, printed.splitlines())) <= 80
    lines = printed.replace("\n  ", " ").splitlines()
    assert len(lines) == 6
    weights = ", ".join([r"\w+ 0\.\d{3} \([+-]0\.\d{3}\)"] * 3)
    for step, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf"demo: step {step}/6, loss \d+\.\d{{3}}, largest weights {weights}, "
            r"[\d,]+ passages/s, (\d+\.\d s|less than 0\.1 s) left",
            line,
        ), line
    assert lines[-1].endswith(", 0.0 s left")


def test_the_last_step_is_always_told(parts, fit, capfd) -> None:
    module = parts.finetune()
    fit(module, parts.homogeneous(module.encoder), callbacks=[Progress("fine", seconds=1000)])
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("fine: step 6/6, loss ")
    assert "weights" not in line


def test_the_picture_has_losses_weights_and_their_change(parts, fit, tmp_path) -> None:
    module, progress = parts.tdro(), Progress("demo")
    data = parts.heterogeneous(module.proxy)
    fit(module, data, steps=3, logger=History(tmp_path), callbacks=[progress])
    screen = Console(file=io.StringIO(), width=120, force_terminal=False)
    screen.print(progress.state.picture())
    name, head, title, *rows = screen.file.getvalue().splitlines()
    assert name.split() == ["demo"]
    assert "step 3/3" in head
    assert "0.0 s left" in head
    assert title.split() == ["domain", "weight", "change", "proxy", "loss", "reference"]
    history = [line.split(",") for line in (tmp_path / "history.csv").read_text().splitlines()]
    last = {metric: float(value) for step, metric, value in history[1:] if step == "2"}
    assert f"loss {last['loss']:.3f}" in head
    names = ["easy", "middle", "hard"]
    for row, name in zip(
        rows, sorted(names, key=lambda n: last[f"weights/{n}"], reverse=True), strict=True
    ):
        weight = last[f"weights/{name}"]
        losses = [last[f"loss/{kind}/{name}"] for kind in ("proxy", "reference")]
        shown = [name, weight, weight - 1 / 3, *losses]
        assert row.split()[0] == shown[0]
        assert [float(v) for v in row.split()[1:]] == pytest.approx(shown[1:], abs=6e-4)


def test_many_domains_are_cut_and_names_are_no_markup() -> None:
    weights = {f"[red]d{i}" if i == 0 else f"d{i}": (20 - i) / 210 for i in range(20)}
    state = State("t", 1, 2, {"loss": 1.0}, speed=10.0, left=3661.0, weights=weights)
    screen = Console(file=io.StringIO(), width=100)
    screen.print(state.picture())
    text = screen.file.getvalue()
    assert "[red]d0" in text
    assert "and 12 more" in text
    assert "1 h 1 min left" in text
    assert state.line().count("(+0.0") == 3


def test_long_names_and_times_fit_80_columns() -> None:
    names = [f"{'a long name of a domain ' * 3}{i}" for i in range(9)]
    metrics = {"loss": 1.0}
    metrics |= {f"loss/{kind}/{n}": 12.5 for n in names for kind in ("proxy", "reference")}
    weights = dict.fromkeys(names, 1 / 9)
    state = State("robustness_tdro_mini/reference", 99_999, 100_000, metrics, 9e4, 9e4, weights)
    assert max(map(len, state.line().splitlines())) <= 80
    screen = Console(file=io.StringIO(), width=80)
    screen.print(state.picture())
    text = screen.file.getvalue()
    assert "step 99999/100000" in text
    assert text.count("12.500") == 16
    assert len(text.splitlines()) == 12


def test_scores_on_a_dev_set_are_in_the_line_and_the_picture() -> None:
    metrics = {"loss": 1.0, "validation/ndcg@10": 0.4321, "validation/loss/easy": 9.0}
    state = State("demo", 3, 10, metrics, speed=1234.0, left=5.0)
    assert ", validation ndcg@10 0.432, 1,234 passages/s" in state.line().replace("\n  ", " ")
    screen = Console(file=io.StringIO(), width=80, force_terminal=False)
    screen.print(state.picture())
    lines = screen.file.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[2] == "validation ndcg@10 0.432"


def test_a_training_that_stops_early_says_where(parts, fit, capfd) -> None:
    class Stop(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: object) -> None:
            trainer.should_stop = trainer.global_step == 4

    module = parts.finetune()
    callbacks = [Stop(), Progress("fine", seconds=1000)]
    fit(module, parts.homogeneous(module.encoder), callbacks=callbacks)
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("fine: step 4/6, loss ")
