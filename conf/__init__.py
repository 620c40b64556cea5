"""What a run is made of: the typed schema and Hydra's groups of YAML. Data, no behaviour."""
