"""The ranks of a process group: their collectives, and how they agree about a call.

A collective whose ranks disagree hangs, or mixes up numbers that do not belong together. So the
first collective of every call has the same size whatever the arguments are: each rank sends a
header, which says whether it refuses its own arguments, how many classes it holds, and digests of
all that the ranks must have in common. If the headers agree, every rank knows where its classes
begin, and the call goes on. If not, the ranks exchange what the digests were made of, and each one
raises an error that names the rank and the argument.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, NoReturn, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from celib.arguments.errors import refuse_type

# The header, integers of 64 bits: whether the rank refuses its arguments, whether it reads the
# headers of the others, its number of classes, a digest of its terms and those of its tensors.
REFUSES, READS, CLASSES, TERMS, TENSORS = range(5)
# The most tensors that the ranks of a call have in common.
TENSORS_OF_A_CALL = 3
# The name of this collective since torch 2.13, and the one before it.
_all_gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
# Room for the terms of a call or for the message of an error, in bytes.
TEXT = 8192


class Call(Protocol):
    """What a rank brings to a call."""

    @property
    def classes(self) -> int:
        """The number of classes that this rank holds."""
        ...

    @property
    def terms(self) -> Mapping[str, str]:
        """What all ranks must have in common, as text, by the names of the arguments."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor | None]:
        """The tensors that must be equal on all ranks."""
        ...

    @property
    def validate(self) -> bool:
        """Whether to compare the tensors, too."""
        ...


C = TypeVar("C", bound=Call)


class Step(NamedTuple):
    """A call, or a part of one, that says no more than what the ranks must have in common."""

    terms: Mapping[str, str]
    validate: bool
    tensors: Mapping[str, Tensor | None] = {}
    classes: int = 0


class Place(NamedTuple):
    """The classes of a rank among those of all ranks, as tensors of one integer.

    On a GPU they stay there, so that a call with ``validate=False`` does not wait for them.
    """

    first: Tensor  #: the number of classes that lower ranks hold
    total: Tensor  #: the number of classes of all ranks


class Ranks:
    """The ranks of a process group, of which this process is one."""

    def __init__(self, caller: str, group: dist.ProcessGroup | None) -> None:
        """Raise unless the process belongs to the group, None for the default one."""
        expected = "a ProcessGroup that this process belongs to, or None for the default group"
        if group is not None and not isinstance(group, dist.ProcessGroup):
            refuse_type("process_group", group, expected)
        if not (dist.is_available() and dist.is_initialized()):
            raise ValueError(
                f"process_group = {group}: expected a call of "
                "torch.distributed.init_process_group before that of a distributed loss"
            )
        self.caller, self.group = caller, group
        self.size, self.rank = dist.get_world_size(group), dist.get_rank(group)
        if self.rank < 0:
            raise ValueError(f"process_group does not contain this process: expected {expected}")

    @property
    def devices(self) -> list[str]:
        """The types of devices whose tensors the group exchanges."""
        pairs = dist.get_backend_config(self.group).split(",")
        return [pair.partition(":")[0] for pair in pairs]

    def gather(self, a: Tensor, what: str) -> Tensor:
        """The tensors of all ranks, of equal shapes, shape (ranks, *a.shape)."""
        if self.size == 1 or a.numel() == 0:
            return a.expand(self.size, *a.shape)
        found = a.new_empty(self.size * a.numel())
        with self._waiting(what):
            _all_gather(found, a.contiguous().view(-1), group=self.group)
        return found.view(self.size, *a.shape)

    def add(self, a: Tensor, what: str) -> None:
        """Replace a by the sum over all ranks."""
        if self.size > 1 and a.numel() > 0:
            with self._waiting(what):
                dist.all_reduce(a, group=self.group)

    @contextmanager
    def _waiting(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # of which the errors of torch.distributed are subclasses
            raise RuntimeError(
                f"{self.caller}, rank {self.rank} of {self.size}: the exchange of {what} failed. "
                "Another rank died, raised an error of its own, or did not make the same calls in "
                f"the same order within the timeout of the process group. torch says: {error}"
            ) from error


def agree(ranks: Ranks, prepare: Callable[[], C]) -> tuple[C, Place]:
    """What ``prepare`` returns, once all ranks agree about it; and the place of the classes.

    An error of ``prepare`` is raised on its rank after the others were told, so that they raise
    too instead of waiting. After this function, everything that the ranks agree about is the same
    on all of them: a check of it raises everywhere or nowhere.
    """
    try:
        call = prepare()
        device = _device(ranks, call)
        header = _header(call, device)
    except Exception as error:
        _tell(ranks, error)
        raise
    headers = ranks.gather(header, "the arguments")
    if ranks.size > 1 and (call.validate or device.type == "cpu"):
        _compare(ranks, call, headers.tolist(), device)
    classes = headers[:, CLASSES]
    return call, Place(classes[: ranks.rank].sum(), classes.sum())


def _tell(ranks: Ranks, error: Exception) -> None:
    """Tell the other ranks of an error, where they wait for the header of this one."""
    device = _device(ranks, None)
    header = torch.zeros(TENSORS + TENSORS_OF_A_CALL, dtype=torch.int64, device=device)
    header[REFUSES], header[READS] = 1, 1
    headers = ranks.gather(header, "the arguments").tolist()
    if ranks.size > 1 and all(h[READS] for h in headers):
        _texts(ranks, {"": f"{type(error).__name__}: {error}"}, device)


def _device(ranks: Ranks, call: Call | None) -> torch.device:
    """Where the headers are exchanged: on the CPU, if the group can, so that no GPU is waited for.

    The rest is exchanged where the tensors of the call are.
    """
    known = ranks.devices
    if call is not None:
        for name, a in call.tensors.items():
            if a is not None and a.device.type not in known:
                raise ValueError(
                    f"{name} is on {a.device}: expected {' or '.join(known)}, where the process "
                    "group exchanges tensors"
                )
    if "cpu" in known:
        return torch.device("cpu")
    return torch.device(known[0], torch.get_device_module(known[0]).current_device())


def _header(call: Call, device: torch.device) -> Tensor:
    digest = hashlib.blake2b(json.dumps(dict(call.terms)).encode(), digest_size=8).digest()
    found = torch.zeros(TENSORS + TENSORS_OF_A_CALL, dtype=torch.int64)
    found[READS] = call.validate or device.type == "cpu"
    found[CLASSES] = call.classes
    found[TERMS] = int.from_bytes(digest, "big", signed=True)
    found = found.to(device)
    if call.validate:
        for i, a in enumerate(call.tensors.values()):
            if a is not None:
                found[TENSORS + i] = _digest(a).to(device)
    return found


def _digest(a: Tensor) -> Tensor:
    """A number of 64 bits that changes whenever one entry changes, and nearly always else."""
    bits = _entries(a)
    bits = bits.view(torch.int64) if bits.is_floating_point() else bits
    # Each entry is multiplied by an odd number that depends on its place, scrambled as in
    # splitmix64; products and sums of int64 wrap around.
    at = torch.arange(1, bits.numel() + 1, device=a.device) * -7046029254386353131
    at = (at ^ (at >> 30)) * -4658895280553007687
    return (bits * ((at ^ (at >> 27)) | 1)).sum()


def _entries(a: Tensor) -> Tensor:
    """The entries as numbers of 64 bits, whatever the dtype; -0 as 0."""
    a = a.detach().reshape(-1)
    return a.double() + 0.0 if a.is_floating_point() else a.long()


def _compare(ranks: Ranks, call: Call, headers: list[list[int]], device: torch.device) -> None:
    """Raise the same error on all ranks if the headers do not agree."""
    refused = [r for r, h in enumerate(headers) if h[REFUSES]]
    same = [h[TERMS:] == headers[0][TERMS:] for h in headers]
    if not refused and all(same):
        return
    if not all(h[READS] for h in headers):  # the others have gone on, and exchange no texts
        raise ValueError(f"{ranks.caller}: the ranks disagree, and some have validate = False")
    texts = _texts(ranks, call.terms, device)
    if refused:
        told = "; ".join(f"rank {r} refuses its arguments: {texts[r].get('')}" for r in refused)
        raise ValueError(f"{ranks.caller}: {told}")
    differing = []
    for name in texts[0]:
        found = [text.get(name) for text in texts]
        # Another function has other arguments, which say nothing more.
        if None not in found and len(set(found)) > 1:
            differing.append(_difference(name, found))
    if differing:
        raise ValueError(f"{ranks.caller}: {'; '.join(differing)}")
    # The shapes are the same, so that the tensors themselves can be exchanged.
    for i, (name, a) in enumerate(call.tensors.items()):
        if a is not None and len({h[TENSORS + i] for h in headers}) > 1:
            _refuse_tensors(ranks, name, a)


def _texts(ranks: Ranks, text: Mapping[str, str], device: torch.device) -> list[dict[str, str]]:
    """A few words of every rank."""
    short = {
        name: value if len(value) < 600 else value[:600] + "..." for name, value in text.items()
    }
    content = json.dumps(short).encode().ljust(TEXT)[:TEXT]
    sent = torch.frombuffer(bytearray(content), dtype=torch.uint8).to(device)
    received = ranks.gather(sent, "the reasons of a disagreement").cpu()
    return [json.loads(bytes(row.tolist())) for row in received]


def _difference(name: str, found: Sequence[Any]) -> str:
    """Which ranks have another value than most; of two that are as frequent, than the first."""
    expected = Counter(found).most_common(1)[0][0]
    others = [f"{value} on rank {r}" for r, value in enumerate(found) if value != expected]
    those = [str(r) for r, value in enumerate(found) if value == expected]
    return (
        f"{name} = {', '.join(others)}: expected {expected}, as on "
        f"rank{'s' if len(those) > 1 else ''} {', '.join(those)}"
    )


def _refuse_tensors(ranks: Ranks, name: str, a: Tensor) -> NoReturn:
    rows = ranks.gather(_entries(a), name).cpu()
    differs = ((rows != rows[0]) & ~(rows.isnan() & rows[0].isnan())).any(0)
    at = int(differs.long().argmax())
    place, rest = [], at
    for n in reversed(a.shape):
        place.append(rest % n)
        rest //= n
    index = f"[{', '.join(map(str, reversed(place)))}]" if place else ""
    found = [row[at].item() for row in rows]
    raise ValueError(f"{ranks.caller}: {_difference(name + index, found)}")
