"""The run folder: its layout, its lock, its records, and how a trained model is found."""
