import pytest

from tdro_lightning.console.durations import format_duration


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0.0 s"),
        (0.0197, "less than 0.1 s"),
        (59.94, "59.9 s"),
        (200.4, "3 min 20 s"),
        (3600, "1 h 0 min"),
        (16200, "4 h 30 min"),
    ],
)
def test_format_duration(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text
