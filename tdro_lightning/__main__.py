"""`python -m tdro_lightning`: see `cli`."""

from tdro_lightning.cli import main

if __name__ == "__main__":
    main()
