"""What fits where: the bytes a model needs, where its weights go, and what to do where they do not fit."""
