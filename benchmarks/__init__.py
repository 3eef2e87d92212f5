"""What the fused losses cost, beside what else computes them: ``make bench``.

- ``timing``: seconds and bytes of anything, the peers of a comparison taking turns
- ``cross_entropy``: the peers of the losses, the shapes, and the error against float64
- ``losses``, ``binary``, ``distillation``: all losses on a CPU beside torch's formulas, from small
  calls on
- ``calibration``: calibration errors
- ``measures``, ``distributed``: commands of their own, the functions of celib.information and
  celib.stable, and the losses on several processes
- ``__main__``: the command: progress, a table, ``celib/data/speed.json`` and a figure

Peers are used if they are installed, and named with the reason if not: liger-kernel,
cut-cross-entropy and quack-kernels on a GPU; torchmetrics, netcal and relplot for calibration. The
result of each is compared before it is timed. Nothing here is needed by :mod:`celib`.
"""
