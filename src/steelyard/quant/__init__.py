"""Number formats and quantisers: what small integers and scales mean, and how floats become them."""
