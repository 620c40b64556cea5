"""What a hospital allows, who said so, and what was done: its policy, approvals and log."""
