"""Compile the Triton kernels for GPUs that are not there: python tests/assemble.py 75 80 90

One line a kernel: registers a thread, bytes spilled to memory, loads of 16 bytes, and
synchronisations within loops. tests/test_kernels.py runs this in a process of its own, because a
process in which Triton interprets does not compile.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from celib.kernels import with_triton

FLAGS = ("WEIGHTED", "SMOOTHED", "CAPPED")
POINTERS = {"LOSS": "fp32", "LSE": "fp32", "NUMBERS": "fp32", "G_LOSS": "fp32", "G_LSE": "fp32"}
FLOATS = ("smoothing", "z_loss", "scale", "softcap")


def ptx(kernel, capability, dtype, constants):
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
        (i,)
        for i, name in enumerate(kernel.arg_names)
        if signature[name][0] == "*" or name in ("classes", "stride_x", "stride_out")
    ]
    attributes = {i: [["tt.divisibility", 16]] for i in multiples}
    return triton.compile(
        ASTSource(kernel, signature, constants, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": 8},
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


def registers(text, capability):
    """Registers a thread and bytes spilled, as the assembler reports them."""
    assembler = Path(triton.__file__).parent / "backends/nvidia/bin/ptxas"
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "kernel.ptx")
        source.write_text(text)
        target = re.search(r"\.target (sm_\w+)", text)[1]
        command = [assembler, "-v", f"-arch={target}", source, "-o", Path(folder, "kernel.cubin")]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    used = re.search(r"Used (\d+) registers", done.stderr)[1]
    return int(used), int(re.search(r"(\d+) bytes spill stores", done.stderr)[1])


if __name__ == "__main__":
    for capability in map(int, sys.argv[1:]):
        for dtype, lanes in (("bf16", 2048), ("fp16", 2048), ("fp32", 1024)):
            for every in (False, True):
                tile = {"K": 4, "L": lanes}
                for kernel, constants in (
                    (with_triton._forward_kernel, tile),
                    (with_triton._forward_soft_kernel, tile | {"K": 2, "SOFT": True}),
                    (with_triton._backward_kernel, {"BLOCK": 4096, "SOFT": every}),
                ):
                    text = ptx(kernel, capability, dtype, constants | dict.fromkeys(FLAGS, every))
                    used, spilled = registers(text, capability)
                    vectors = len(re.findall(r"ld\.global\S*\.v4", text))
                    name = kernel.__name__.strip("_").removesuffix("_kernel") + (
                        "-every" if every else ""
                    )
                    in_loops = synchronisations(text)
                    print(f"sm_{capability} {dtype} {name} {used} {spilled} {vectors} {in_loops}")
