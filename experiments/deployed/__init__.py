"""A study on deployed hospitals: plans, waiting, verdicts, previews."""
