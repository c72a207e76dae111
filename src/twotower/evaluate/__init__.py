"""The judge: whole-catalogue evaluation, stage by stage, and its files."""
