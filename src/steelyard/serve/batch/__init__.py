"""Batch jobs: a file of requests in, a file of answers out, whatever happens to the process in between."""
