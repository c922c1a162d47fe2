"""Replicas in processes of their own: what is said between them and the server, and who keeps them alive."""
