import os

from tdro_lightning.console.screen import fit_screen, fold

TERMINAL = os.terminal_size((80, 24))


def test_lines_are_broken_at_spaces_and_words_stay_whole() -> None:
    path = "/a/" + "long-folder-" * 10
    text = f"  note: {'some words ' * 12}{path}\nshort\n\n"
    lines = fold(text, 80).splitlines()
    assert lines[-2:] == ["short", ""]
    assert f"    {path}" in lines
    assert max(len(line) for line in lines if path not in line) <= 80
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())


def test_what_does_not_fit_the_screen_is_counted() -> None:
    text = "\n".join(f"error: key{i}=0 must be at least 1" for i in range(60))
    lines = fit_screen(text, TERMINAL).splitlines()
    assert len(lines) == 23
    assert lines[:22] == text.splitlines()[:22]
    assert lines[-1] == "... and 38 more lines; all of them: add 2>errors.txt"
    whole = "\n".join(text.splitlines()[:23])
    assert fit_screen(whole, TERMINAL) == whole
