"""Versions of the code that several backbones and methods share; part of every run's identity.

Raise the number of a part whenever a change to it changes a result, be it in the last bit: a run made
before is then no longer taken for a current one, and tables mark rows of different versions. What
belongs to one backbone or method has its own `version` there.
"""

SHARED: dict[str, int] = {
    "training": 1,  # the loop, schedules, the optimisers' steps
    "sampling": 1,  # which batches are drawn
    "tables": 1,  # look-ups, masks, and what is stored of them
    "ops": 1,  # kernels and operations, with the order of their sums
    "evaluation": 1,  # rankings, ties and metrics
    "seeds": 1,  # random streams
}
