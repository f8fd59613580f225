"""The configured domains, loaded and checked before any model is."""

from dataclasses import asdict

from tdro_lightning.data.domains import Domain, load_domains
from tdro_lightning.errors import ConfigError
from tdro_lightning.schema import Config


def configured_domains(config: Config) -> list[Domain]:
    """Rows of the configured domains.

    Raises:
        ConfigError: neither a folder nor a hub dataset is named.
        DataError: a file is missing or a row breaks the format.
    """
    return load_domains(
        {name: asdict(entry) for name, entry in config.domains.catalogue.items()},
        root=domains_root(config),
        hub=config.domains.hub,
        only=config.domains.only,
        rows=config.domains.rows or {},
    )


def domains_root(config: Config) -> str:
    """Folder of the domain files; empty where a hub dataset holds them.

    Raises:
        ConfigError: neither a folder nor a hub dataset is named.
    """
    if config.domains.hub is None and config.domains.root is None:
        raise ConfigError("domains.root is not set; give the folder of the domain files")
    return config.domains.root or ""
