"""Tools that models may call: how they are told to the model, and how its calls are read. No dialect's own fields."""
