"""Evaluation: Err, RErr, Loss and RLoss over a data set, and flatness of a run.

`robustness` has the functions of a model and examples. `records` is how results are
written down, each with its protocol, and `tasks` computes those that are not there yet;
`evaluate` and `measure_flatness` say which ones a checkpoint has.
"""
