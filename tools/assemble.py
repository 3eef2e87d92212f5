"""Compile the Triton kernels for GPUs that are not there: python tools/assemble.py 75 80 90

One line a kernel: registers a thread, bytes spilled to memory, loads of 16 bytes, synchronisations
within loops, and instructions a logit, those of branches seldom taken among them. The tests run
this in a process of its own, because a process in which Triton interprets does not compile.
"""

import itertools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from celib.kernels import with_triton

FLAGS = ("WEIGHTED", "SMOOTHED", "SCALED", "CAPPED", "HOT")
POINTERS = {"RESULTS": "fp32", "SAVED": "fp32", "G": "fp32"}
FLOATS = ("smoothing", "z_loss", "scale", "softcap")


def multiples_of_16(arguments):
    """The attributes by which Triton learns that the arguments at these positions are multiples of
    16. No stable interface covers this: each branch is what the launcher of that version does."""
    version = tuple(map(int, triton.__version__.split(".")[:2]))
    if version >= (3, 3):
        return {(i,): [["tt.divisibility", 16]] for i in arguments}
    if version >= (3, 2):
        from triton.backends.compiler import AttrsDescriptor

        return AttrsDescriptor.from_hints(dict.fromkeys(arguments, 16))
    from triton.compiler import AttrsDescriptor

    return AttrsDescriptor(divisible_by_16=set(arguments))


def ptx(kernel, capability, dtype, constants, warps):
    """The program for rows that start at multiples of 16 bytes."""
    soft = constants.get("SOFT", False)
    constants = {k: v for k, v in constants.items() if k in kernel.arg_names}
    constants |= {} if constants["WEIGHTED"] else {"W": None}
    pointers = POINTERS | {"X": dtype, "OUT": dtype, "W": "fp32", "CORRECT": "i8"}
    pointers["T"] = "fp32" if soft else "i64"
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in pointers:
            signature[name] = "*" + pointers[name]
        else:
            signature[name] = "fp32" if name in FLOATS else "i32"
    multiples = [
        i
        for i, name in enumerate(kernel.arg_names)
        if signature[name][0] == "*" or name in ("classes", "stretch", "stride_x", "stride_out")
    ]
    return triton.compile(
        ASTSource(kernel, signature, constants, multiples_of_16(multiples)),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": warps},
    ).asm["ptx"]


def synchronisations(text):
    """How many barriers and shuffles are there between a label and a jump back to it."""
    lines, count = text.splitlines(), 0
    labels = {line.split(":")[0]: i for i, line in enumerate(lines) if re.match(r"\$L\w+:", line)}
    for end, line in enumerate(lines):
        target = re.search(r"bra(?:\.uni)?\s+(\$L\w+);", line)
        start = labels.get(target[1], end) if target else end
        count += sum("bar.sync" in a or "shfl" in a for a in lines[start:end])
    return count


def assembled(text):
    """Registers a thread, bytes spilled, and the instructions of the machine with their addresses,
    as the assembler and the disassembler report them."""
    tools = Path(triton.__file__).parent / "backends/nvidia/bin"
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder, "kernel.ptx"), Path(folder, "kernel.cubin")
        source.write_text(text)
        target = re.search(r"\.target (sm_\w+)", text)[1]
        # Triton brings two assemblers. The second, of CUDA 13, is the one for PTX from 9.0 on: that
        # of new GPUs, and from Triton 3.9 on also that of sm_90.
        new = int(re.search(r"\.version (\d+)", text)[1]) >= 9
        ptxas = tools / ("ptxas-blackwell" if new else "ptxas")
        report = output(ptxas, "-v", f"-arch={target}", source, "-o", binary)
        listing = output(tools / "cuobjdump", "-sass", binary)
    used, spilled = re.search(r"Used (\d+) reg", report), re.search(r"(\d+) bytes spill st", report)
    found = re.findall(r"/\*([0-9a-f]{4,5})\*/ +(.*?);", listing)
    return int(used[1]), int(spilled[1]), [(int(address, 16), code) for address, code in found]


def output(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout + done.stderr


def hot(instructions):
    """How many instructions the loop with the exponentials has, or if there is none all of it."""
    addresses = [address for address, _ in instructions]
    sizes = [len(instructions)]
    for end, (_, code) in enumerate(instructions):
        back = re.search(r"BRA.* 0x([0-9a-f]+)", code)
        start = addresses.index(int(back[1], 16)) if back else end
        body = instructions[start : end + 1]
        if sum("MUFU.EX2" in code for _, code in body) > 8:
            sizes.append(len(body))
    return min(sizes)


CASES = {
    "forward": (with_triton._forward_kernel, {"K": 4}, 8),
    "forward-soft": (with_triton._forward_soft_kernel, {"K": 2, "SOFT": True}, 8),
    "forward-small": (with_triton._forward_small_kernel, {"R": 4, "L": 256}, 1),
    "forward-one": (with_triton._forward_small_kernel, {"R": 1, "L": 1024}, 1),
    "forward-few": (with_triton._forward_small_kernel, with_triton._rows_of(10), 1),
    "backward": (with_triton._backward_kernel, {"R": 1, "L": 4096}, 8),
    "backward-small": (with_triton._backward_kernel, {"R": 4, "L": 256}, 1),
    "backward-few": (with_triton._backward_kernel, with_triton._rows_of(10), 1),
}

if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        half = "bf16" if capability >= 80 else "fp16"
        for dtype, (name, (kernel, constants, warps)) in itertools.product(
            (half, "fp32"), CASES.items()
        ):
            for every in (False, True):
                tile = {"L": 1024 if dtype == "fp32" else 2048} | constants
                flags = dict.fromkeys(FLAGS, every)
                flags |= {"SOFT": every} if name.startswith("backward") else {}
                text = ptx(kernel, capability, dtype, flags | tile, warps)
                used, spilled, instructions = assembled(text)
                logits = tile.get("K", 1) * tile.get("R", 1) * tile["L"] / (32 * warps)
                print(
                    f"sm_{capability}", dtype, name + "-every" * every, used, spilled,
                    len(re.findall(r"ld\.global\S*\.v4", text)), synchronisations(text),
                    f"{hot(instructions) / logits:.1f}",
                )  # fmt: skip
