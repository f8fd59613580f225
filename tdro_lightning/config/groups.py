"""Groups of the configured domains, by which a mixture is bounded."""

from tdro_lightning.config.schema import Config

FIELDS = ("language", "category")  # of a domain's entry in the catalogue


def domain_groups(config: Config) -> dict[str, tuple[str, ...]]:
    """Names of the configured domains under each label: a name, `language/en`, `category/News`."""
    catalogue = config.domains.catalogue
    names = [name for name in config.domains.only or catalogue if name in catalogue]
    groups: dict[str, tuple[str, ...]] = {name: (name,) for name in names}
    for field in FIELDS:
        for name in names:
            label = f"{field}/{getattr(catalogue[name], field)}"
            groups[label] = (*groups.get(label, ()), name)
    return groups
