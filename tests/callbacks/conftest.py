from tests.modules.conftest import fit, parts

__all__ = ["fit", "parts"]
