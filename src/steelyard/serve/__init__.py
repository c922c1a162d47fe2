"""The room of the HTTP server: protocols of others in, engine requests out."""
