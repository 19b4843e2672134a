"""Files on disk: where a checkpoint is, what its tensors are called, whether it is whole, reading and
writing it."""
