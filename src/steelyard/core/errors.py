"""The tree of exceptions that users meet, drawn once.

Every error names the *field* that was wrong, what the problem is, and the *remedy*; the command line prints exactly
that and nothing more. ``assert`` is for our own bugs and never appears here.

    SteelyardError
    ├── InputError (also a ValueError)       something the user gave is wrong
    │   ├── ModelError                       unknown, unsupported or inconsistent model
    │   │   └── WeightsError                 a weight file is missing, truncated or corrupt
    │   ├── PromptError                      empty, too long or undecodable prompt
    │   └── ParamsError                      a sampling or engine parameter out of range
    └── ResourceError                        the machine or the engine cannot do it now
        ├── MemoryBudgetError                weights, KV cache or workspace do not fit
        ├── StorageError                     disk full, no permission
        ├── EngineBusyError                  the waiting queue is full
        ├── NoReplicaError                   no replica is healthy
        ├── ReplicaLostError                 a replica died while it worked on a request
        ├── DeadlineError                    the request's deadline passed
        └── EngineStoppedError               the engine was closed or its executor failed
"""

from __future__ import annotations


class SteelyardError(Exception):
    """Base of all errors meant for users.

    Args:
        problem: what is wrong, as a sentence without its final full stop.
        field: the parameter, file or key at fault, as the user wrote it.
        remedy: what to do about it, as a sentence without its final full stop.
    """

    def __init__(self, problem: str, *, field: str, remedy: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.field = field
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.field}: {self.problem}. {self.remedy}."


class InputError(SteelyardError, ValueError):
    """Something the user gave is wrong."""


class ModelError(InputError):
    """The model is unknown, unsupported, or contradicts itself."""


class WeightsError(ModelError):
    """A weight file is missing, truncated or corrupt."""


class PromptError(InputError):
    """The prompt is empty, too long or cannot be decoded."""


class ParamsError(InputError):
    """A sampling or engine parameter is out of range."""


class ResourceError(SteelyardError, RuntimeError):
    """The machine or the engine cannot do it now."""


class MemoryBudgetError(ResourceError):
    """Weights, KV cache or workspace do not fit in memory."""


class StorageError(ResourceError):
    """The disk is full or a path cannot be written."""


class EngineBusyError(ResourceError):
    """The waiting queue is full."""


class NoReplicaError(ResourceError):
    """No replica is healthy."""


class ReplicaLostError(ResourceError):
    """A replica died while it worked on a request."""


class DeadlineError(ResourceError):
    """The request's deadline passed before it finished."""


class EngineStoppedError(ResourceError):
    """The engine was closed, or its executor failed."""
