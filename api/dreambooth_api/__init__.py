"""The contract between a person's manifest, the operator and the training job; it imports neither side."""
