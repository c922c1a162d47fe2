"""One file per group of routes; each has a function that returns its router."""
