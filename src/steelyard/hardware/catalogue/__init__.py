"""Hardware known by name, as data files; every figure says where it is from."""
