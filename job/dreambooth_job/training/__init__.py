"""The training loop and what it leans on: settings, precision, checkpoints, samples."""
