"""``gradcheck.watch``: the training step that really ran, judged on its own tensors.

A call in the training loop registers a hook on what the network put out.  When its gradient arrives, it is compared
with the derived one, in the step's own precision, and what the step was made of is checked for consistency.
"""
