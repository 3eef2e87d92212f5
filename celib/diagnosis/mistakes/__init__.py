"""What ``doctor`` knows about loss functions.

- ``probes``: the batches on which a loss is tried
- ``formulas``: the right losses, and every mistake that is recognised, as code
- ``texts``: what is said of each
"""
