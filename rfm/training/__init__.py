"""Training: a method is a choice on each of a few independent axes.

`adversary` says which examples the network sees, `objective` which loss is
minimised on them, `optimiser` how parameters follow the gradient, and `after` what
happens to them after the step. `step` composes a choice on each into the pure
``train_step``; `loop` runs it over a data set with checkpoints and metrics, and
`build` makes all of this from a config.
"""
