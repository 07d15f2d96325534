"""Functions behind the commands for datasets and trained models, each with its configuration."""
