"""What goes over the wire: one file per dialect's endpoint, requests as pydantic models, answers as typed dicts."""
