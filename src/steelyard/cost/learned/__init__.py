"""Costs that are learned from measurements (S12, S39). Predicting needs numpy alone, training scikit-learn."""
