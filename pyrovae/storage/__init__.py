"""Files that are complete or not there: tensors, checkpoints, locks."""
