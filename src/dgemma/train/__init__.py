"""Training and measuring a model of this architecture. Nothing below knows of losses or corpora."""
