"""One file per operation: its contract, the torch reference, and the choice of the form that runs."""
