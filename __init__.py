"""fedcohort: privacy-preserving federated analytics for hospitals."""

__version__ = "0.1.0"
