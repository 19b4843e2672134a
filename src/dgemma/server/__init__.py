"""The service: what existing clients speak, over one model, on one thread that owns the device."""
