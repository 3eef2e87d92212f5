"""Cross-entropy of logits that are spread over several processes, on torch.distributed.

In tensor parallelism each rank of a process group computes the logits of its own range of classes.
The losses here need no rank to hold a whole row: every rank describes its classes by a few numbers
per row, one collective exchanges them, and every rank merges them in the order of the ranks. So all
ranks have the same loss, bit for bit. The gradient of a rank's logits needs no communication.

The collectives are those of any backend of torch.distributed: gloo on a CPU, NCCL on GPUs. Every
rank of the group has to make the same calls in the same order. Compiled code calls the losses
outside of its graphs; ``torch.func`` does not take them.

- ``vocab_parallel_cross_entropy``, ``vocab_parallel_linear_cross_entropy``: for plain tensors
- ``vocabulary``: where these two check their arguments
- ``merging``: the arithmetic
- ``ranks``: the collectives, and how the ranks agree about a call before they compute it
- ``dtensor``: the same losses for a DTensor, which :mod:`celib.losses` calls when it is given one
"""

from celib.distributed.vocabulary import (
    vocab_parallel_cross_entropy,
    vocab_parallel_linear_cross_entropy,
)

__all__ = ["vocab_parallel_cross_entropy", "vocab_parallel_linear_cross_entropy"]


def __dir__() -> list[str]:
    return sorted(__all__)
