"""Record what the loss functions of other frameworks return: python tools/frameworks.py

The book does not depend on these frameworks, so ``celib/data/frameworks.json`` holds what each
entry point returned, with versions and date. This writes the records of the frameworks that are
installed, and ``tests/test_frameworks.py`` computes the same rows again.

Every row is given the same two examples, once as logits, once as probabilities, once as logarithms
of probabilities: the right kind of input costs 0.417030 (classes) or 0.223144 (binary).
"""

import datetime
import importlib.util
import json
import math
import os
import platform
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np

RECORDS = Path(__file__).parents[1] / "celib" / "data" / "frameworks.json"
MODULES = {
    "optax": ["optax", "jax"],
    "tensorflow": ["tensorflow"],
    "keras-tensorflow": ["keras", "tensorflow"],
    "keras-jax": ["keras", "jax"],
}

# The second example is the first with its classes in another order: their losses are equal, so the
# value of a row is the loss of one example, and its shape tells the reduction.
Z = np.array([[2.0, 1.0, 0.1], [0.1, 2.0, 1.0]], np.float32)
C = np.array([0, 1], np.int32)
Y = np.eye(3, dtype=np.float32)[C]
P = np.exp(Z) / np.exp(Z).sum(-1, keepdims=True)
KINDS = {"z": Z, "p": P, "l": np.log(P)}

# One probability of 0.8, for a label of 1, twice.
Z2 = np.full((2, 1), np.log(4), np.float32)
Y2 = np.ones((2, 1), np.float32)
P2 = np.full((2, 1), 0.8, np.float32)
KINDS2 = {"z": Z2, "p": P2, "l": np.log(P2)}


def row(name, takes, call, kinds=KINDS):
    """A row of the table: z logits, p probabilities, c an index, y a vector; order as called."""
    values, shape = {}, None
    for kind, array in kinds.items():
        try:
            result = np.asarray(call(array))
        except Exception as error:
            values[kind] = type(error).__name__
            continue
        if kind == takes.replace(" ", "").strip("cy,"):
            shape = list(result.shape)
            assert np.ptp(result) < 1e-6, f"{name} gives two losses to equal examples"
        value = float(result.ravel()[0])
        values[kind] = round(value, 6) if math.isfinite(value) else str(value)
    return {"name": name, "takes": takes, "shape": shape, **values}


def optax():
    import optax

    sparse = optax.softmax_cross_entropy_with_integer_labels
    return [
        row("optax.softmax_cross_entropy", "z, y", lambda x: optax.softmax_cross_entropy(x, Y)),
        row(f"optax.{sparse.__name__}", "z, c", lambda x: sparse(x, C)),
        row(
            "optax.sigmoid_binary_cross_entropy",
            "z, y",
            lambda x: optax.sigmoid_binary_cross_entropy(x, Y2),
            KINDS2,
        ),
    ]


def tensorflow():
    import tensorflow as tf

    names = (
        ("softmax_cross_entropy_with_logits", "y, z", Y, KINDS),
        ("sparse_softmax_cross_entropy_with_logits", "c, z", C, KINDS),
        ("sigmoid_cross_entropy_with_logits", "y, z", Y2, KINDS2),
    )
    return [
        row(f"tf.nn.{name}", takes, lambda x, f=name, y=y: getattr(tf.nn, f)(y, x).numpy(), kinds)
        for name, takes, y, kinds in names
    ]


def keras():
    import keras

    def entry(name, target, y, kinds, *, from_logits):
        loss = getattr(keras.losses, name)(from_logits=from_logits)
        return row(
            f"{name}({'from_logits' if from_logits else ''})",
            f"{target}, {'z' if from_logits else 'p'}",
            lambda x: keras.ops.convert_to_numpy(loss(y, x)),
            kinds,
        )

    return [
        entry(*arguments, from_logits=from_logits)
        for arguments in (
            ("CategoricalCrossentropy", "y", Y, KINDS),
            ("SparseCategoricalCrossentropy", "c", C, KINDS),
            ("BinaryCrossentropy", "y", Y2, KINDS2),
        )
        for from_logits in (False, True)
    ]


def keras_cases():
    """Single calls that the chapter speaks of: by name, what comes back."""
    import keras

    def tensor(values):
        return keras.ops.convert_to_tensor(np.array(values, np.float32))

    def number(result):
        return [round(float(value), 6) for value in keras.ops.convert_to_numpy(result).ravel()]

    call = keras.losses.categorical_crossentropy
    # The same probability of 0.8, once as the output of a layer and once as a plain tensor.
    layer = keras.layers.Dense(1, activation="sigmoid", use_bias=False)
    inputs = keras.ops.convert_to_tensor(np.ones((2, 1), np.float32))
    layer.build(inputs.shape)
    layer.set_weights([Z2[:1]])
    twice = keras.losses.BinaryCrossentropy(from_logits=True)
    return {
        "vector": number(call(tensor([[0, 0, 1]]), tensor([[0.1, 0.1, 0.8]]))),
        "unnormalised": number(call(tensor([[0, 0, 1]]), tensor([[0.1, 0.2, 0.1]]))),
        "layer": number(twice(Y2, layer(inputs))),
        "tensor": number(twice(Y2, tensor(P2))),
        # Labels of shape (4,) for logits of shape (4, 1).
        "squeezed": number(twice(tensor([1, 0, 1, 0]), tensor([[3], [-2], [4], [-3]]))),
    }


def computed(name):
    """A framework's record, from a process of its own: Keras cannot change its backend."""
    backend = name.partition("-")[2]
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu"}
    if backend:
        environment["KERAS_BACKEND"] = backend
    run = [sys.executable, __file__, name]
    result = subprocess.run(run, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def record(name):
    kind = name.partition("-")[0]
    rows = {"optax": optax, "tensorflow": tensorflow, "keras": keras}[kind]()
    versions = {"python": platform.python_version()}
    versions |= {module: version(module) for module in MODULES[name]}
    found = {"date": str(datetime.date.today()), "versions": versions, "rows": rows}
    return found | ({"cases": keras_cases()} if kind == "keras" else {})


def missing(name):
    return [module for module in MODULES[name] if importlib.util.find_spec(module) is None]


def recorded():
    return json.loads(RECORDS.read_text("utf-8")) if RECORDS.exists() else {}


def main():
    if len(sys.argv) > 1:
        print(json.dumps(record(sys.argv[1])))
        return
    records = recorded()
    for name in MODULES:
        if missing(name):
            print(f"{name}: {', '.join(missing(name))} not installed, record kept")
        else:
            records[name] = computed(name)
            print(f"{name}: {records[name]['versions']}")
    RECORDS.write_text(json.dumps(records, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
