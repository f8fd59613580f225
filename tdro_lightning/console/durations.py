"""Durations in words, for the terminal and the report."""


def format_duration(seconds: float) -> str:
    """Seconds as a person writes them: `42.0 s`, `3 min 20 s`, `4 h 5 min`."""
    if 0 < seconds < 0.05:
        return "less than 0.1 s"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds) // 60
    if minutes < 60:
        return f"{minutes} min {round(seconds) % 60} s"
    return f"{minutes // 60} h {minutes % 60} min"
