"""Look at a batch that was saved: ``python -m celib.diagnosis batch.pt``."""

from __future__ import annotations

import argparse
import inspect
import pickle
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from celib.diagnosis.batch import diagnose

_EPILOG = """\
Save what the loss was given, and what it returned, in the step that is odd:

  torch.save({"logits": logits, "target": target, "loss": loss}, "batch.pt")
  numpy.savez("batch.npz", logits=logits, target=target, loss=loss)

The names are those of the arguments of celib.diagnosis.diagnose; logits and target are needed.
Only tensors, arrays, numbers and text are read from the file, never code.

Exit status: 0 if nothing odd was found, 1 if something was, 2 if the file cannot be used.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what is found in a file; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m celib.diagnosis",
        description="Say what is wrong with a batch, or with the loss that was computed of it.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="a dict of tensors (.pt), or arrays (.npz)")
    path = parser.parse_args(arguments).file
    try:
        findings = diagnose(**_checked(_load(path)))
    except (ValueError, TypeError) as error:
        print(f"{path} cannot be used: {error}", file=sys.stderr)
        return 2
    print(findings)
    return 1 if findings else 0


def _load(path: Path) -> Any:
    """The content of a file; ValueError if there is none to be had."""
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                # An array without axes is an option, such as ignore_index.
                return {name: a if a.ndim else a.item() for name, a in file.items()}
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            "it holds more than tensors, numbers and text, or is no file of torch.save"
        ) from error
    except Exception as error:  # the readers of damaged files raise whatever they stumble over
        said = str(error).partition("\n")[0] if isinstance(error, OSError | RuntimeError) else ""
        raise ValueError(said or "it is damaged, or no file of its ending") from error


def _checked(found: Any) -> dict[str, Any]:
    """The same, if it holds the arguments of ``diagnose``."""
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}: expected a dict of tensors")
    known = list(inspect.signature(diagnose).parameters)
    unknown = [str(name) for name in found if name not in known]
    if unknown:
        raise ValueError(f"it holds {', '.join(unknown)}: expected names among {', '.join(known)}")
    missing = [name for name in ("logits", "target") if name not in found]
    if missing:
        raise ValueError(f"it lacks {' and '.join(missing)}")
    return {str(name): a for name, a in found.items()}


if __name__ == "__main__":
    sys.exit(main())
