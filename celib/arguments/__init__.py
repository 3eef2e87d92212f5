"""The door of the library: what a probability, a label, a logit, a weight and an option are.

Every public function of celib takes its arguments through this package, so that what one accepts
all accept, and what one refuses all refuse in the same words.

**Containers.** Lists, tuples and numbers; NumPy arrays of every real dtype, byte order and stride;
pandas and polars series and frames; torch tensors of every kind that holds its values in a dense
array. What a container says beside its values is heeded or refused:

- entries that a mask hides are refused, and so are sparse containers;
- a missing value of pandas or polars is NaN, which is refused wherever NaN is;
- two pandas arguments of one call must have the same labels in the same order, where a series
  that is spread over the rows of a frame is about its columns;
- a tensor keeps its gradient where the function has one, and arguments that come beside it follow
  it to its device; two tensors must be on the same device.

**Probabilities** lie in [0, 1], and a distribution sums to 1. Rounding is not a mistake, and a
container does not say which dtypes its numbers have passed through: a float64 array or a list may
hold what a bfloat16 softmax returned. So one tolerance holds for all of them. A sum may miss 1 by
``SUM_TOLERANCE``, the spacing of bfloat16 at 1. A single entry may be outside [0, 1] by
``entry_tolerance``, 2^-17, or the spacing of its own dtype at 1 if that is larger; it then counts
as 0 or as 1.

**Labels** are whole numbers from 0 on, in an integer, boolean or floating-point dtype.

**Errors.** ``TypeError``: the argument is of a type or dtype that the function does not take,
whatever its values. ``ValueError``: a value, a shape, a device or an option is not right. Both name
the argument, the index, the value, and what was expected.

**Where nothing can be raised**, because the values are not there yet (under a compiler, a tracer or
``vmap``) or because asking for them would make the processor wait for a GPU, a row that would have
been refused gets the result NaN, by the same tolerance, and its neighbours keep theirs.

- ``errors``: the grammar of a refusal, and options
- ``arrays``: arrays of any library, and probabilities
- ``samples``: outcomes, forecasts and their weights, as NumPy arrays
- ``tensors``: what is special to torch
"""
