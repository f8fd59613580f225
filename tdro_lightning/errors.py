"""Errors a user can mend: the message names the value, what is allowed and the place to change."""


class InputError(ValueError):
    """Something the user gave is wrong; the command ends with exit code 2 and this one message."""


class ConfigError(InputError):
    """A wrong or missing configuration key; the message names the key."""


class DataError(InputError):
    """A wrong or missing file, line or field; the message names file and line."""
