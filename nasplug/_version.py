"""The version, stated once: pyproject.toml and the run directories read it here."""

__version__ = "0.2.0"
