import re

from tdro_lightning.callbacks.progress import Progress


def test_lines_say_how_far_how_fast_and_how_long(parts, fit, capfd) -> None:
    module = parts.tdro()
    fit(module, parts.heterogeneous(module.proxy), callbacks=[Progress("demo", seconds=0.0)])
    lines = capfd.readouterr().out.splitlines()
    assert len(lines) == 6
    weights = ", ".join(rf"{name} 0\.\d{{3}}" for name in ["\\w+"] * 3)
    for step, line in enumerate(lines, start=1):
        assert re.fullmatch(
            rf"demo: step {step}/6, loss \d+\.\d{{3}}, largest weights {weights}, "
            r"[\d,]+ passages/s, \d+ s left",
            line,
        ), line
    assert lines[-1].endswith(", 0 s left")


def test_the_last_step_is_always_told(parts, fit, capfd) -> None:
    module = parts.finetune()
    fit(module, parts.homogeneous(module.encoder), callbacks=[Progress("fine", seconds=1000)])
    (line,) = capfd.readouterr().out.splitlines()
    assert line.startswith("fine: step 6/6, loss ")
    assert "weights" not in line
