"""Kernels in Triton, for CUDA devices; the same code runs on CPU tensors in Triton's interpreter, where it is tested.

Nothing here may be imported unless :func:`steelyard.kernels.triton_available.triton_usable` says so: every file but
this one imports ``triton``, which is an extra (``steelyard[cuda]``).

Two habits keep a row's bits independent of its neighbours, of the batch and of how a prompt was cut: sums are cut at
fixed places, that is by the length of the row's own sum and never by the shape of the launch, and whoever adds the
pieces, the kernel itself or a second one, adds them in the same order. For that reason multiply and add are not
contracted (:data:`~steelyard.kernels.triton.launch.SAME_BITS`).
"""
