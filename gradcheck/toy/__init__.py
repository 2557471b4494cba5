"""A training study in two dimensions: the catalogue's losses train a small flow, and what they do is measured.

What is trained is what is proved: a trainer hands its tensors to :meth:`gradcheck.catalogue.Entry.loss`.

======================  ==============================================================
module                  holds
======================  ==============================================================
``data``                the ring of Gaussians that the base model learns
``network``             a small velocity network, one copy for each seed, all at once
``sampling``            the deterministic sampler and the stochastic one
``rewards``             the reward, the advantage, and DiffusionNFT's map to [0, 1]
``pretraining``         flow matching
``training``            rollouts, cases, updates
``measures``            drift, gradient noise, the true gradient of the reward
``equivalence``         the equivalent loss at every step of a training run
``study``               the runs, and their results as JSON
``scores``              what is made of measurements
``figures``             the pictures
``reading``             the results in words
``trial``               the closing claims: tuned and judged on other seeds, at one length and one cost
``verdicts``            what the trial found, with intervals
======================  ==============================================================
"""
