"""The rules of ``diagnose``: in each file those of one subject, the gravest first.

A rule is a function that looks for the evidence of one cause, below the texts of that cause. The
functions bear the names of their causes.

- ``shapes``: whether logits and targets belong together at all
- ``others``: the shapes of the other arguments
- ``targets``: labels, soft targets, masks and class weights
- ``values``: logits that are NaN or infinite
- ``logits``: probabilities in their place, their order, and what the model reports
- ``loss``: the number that the loss returned
- ``gradient``: what came back to the logits
- ``model``: what the model has learned
"""
