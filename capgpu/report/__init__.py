"""Pictures for people: loss curves and contact sheets."""
