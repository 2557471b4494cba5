"""What each loss does and for whom, in plain words: how its page begins."""

from __future__ import annotations

__all__ = ["IN_WORDS"]

IN_WORDS: dict[str, str] = {
    "flow_grpo": (
        "Flow-GRPO fine-tunes a flow-matching model (SD3, Flux, video models) on a reward, with PPO. The "
        "sampler is made random, so that every sampling step has a probability. Steps that led to a "
        "better-than-average image are made more likely, and the others less likely. Use it if you have a "
        "reward, and can afford to store the states of the sampling path. DanceGRPO, CPS, TempFlow-GRPO and "
        "MixGRPO are variants."
    ),
    "grpo_guard": (
        "GRPO-Guard is Flow-GRPO with a corrected ratio. In Flow-GRPO the ratio of a typical sample lies "
        "below 1, by an amount that depends on the time step, so that PPO's clip stops good samples too late. "
        "GRPO-Guard removes that bias and gives all time steps the same scale. Use it where Flow-GRPO's "
        "reward rises while the images get worse."
    ),
    "flow_dppo": (
        "Flow-DPPO is Flow-GRPO with another brake. PPO stops a sample whose probability *ratio* has moved "
        "too far, and that ratio depends on the noise that happened to be drawn. Flow-DPPO stops it once the "
        "*distance* between the two models' steps (their KL divergence, known in closed form) is too large. "
        "Use it where PPO's clip stops samples at random."
    ),
    "ddpo": (
        "DDPO is PPO for diffusion models of the older kind: networks that predict the noise, sampled by DDIM "
        "or DDPM (Stable Diffusion 1.5, SDXL). Each denoising step is an action with a probability, and steps "
        "of images with a high reward are made more likely. Use it for such models; for flow-matching models "
        "the same idea is Flow-GRPO."
    ),
    "reinforce": (
        "REINFORCE is the oldest policy gradient: the advantage times the log-probability of the step that was "
        "sampled, with no ratio and no clip. It is right for one update on fresh samples. After that the samples "
        "are an older model's, and nothing corrects for it. Use it to see what PPO adds, or where every batch is "
        "used once."
    ),
    "awm": (
        "AWM trains on the model's own finished samples with the loss that pretraining used, flow matching, "
        "multiplied by the advantage. Good samples are fitted, bad ones are pushed away. It needs no sampling "
        "path and no random sampler: any solver may produce the samples. Use it if you want few changes to a "
        "pretraining loop; the authors add PPO's clip, since the bare loss pushes bad samples away without a "
        "bound."
    ),
    "diffusion_nft": (
        "DiffusionNFT also trains on finished samples, and never pushes without a bound. For a good sample "
        "the target lies beyond the old model on the sample's side, for a bad one as far on the other side, "
        "and there the pull stops. The old model is a slowly moving average. Use it if AWM is too nervous, or "
        "if you have a success probability in place of an advantage."
    ),
    "rwr": (
        "RWR is supervised training on the model's own samples, where a sample with a higher reward counts "
        "more, by the exponential of the reward. Bad samples are not pushed away, they only count less. Use "
        "it as the simplest baseline: it needs no advantage, no old model and no sampling path."
    ),
    "awr": (
        "AWR is RWR with the advantage in the reward's place and a greatest weight, so that one sample cannot "
        "outweigh a batch. Like RWR it only ever pulls *towards* samples. Use it as a steady baseline, or for "
        "offline data."
    ),
    "fpo": (
        "FPO brings PPO to flow models without probabilities of sampling steps. It takes minus the "
        "flow-matching error for the log-probability of a sample, and so compares how well the new and the "
        "old model fit it. It comes from robot control, where actions are small vectors. Use it if you want "
        "PPO's clip, and any sampler."
    ),
    "diffusion_dpo": (
        "Diffusion-DPO learns from pairs: of two images for one prompt people (or a reward model) preferred "
        "one. The model is to fit the preferred one better than the other, compared with how well a frozen "
        "reference fits them. Use it for preference data without a reward model; no sampling is needed while "
        "training."
    ),
    "dgpo": (
        "DGPO is Diffusion-DPO for groups. Several images of one prompt are sampled and scored; the model is "
        "to fit those above the average better than those below it, each weighted by its advantage. Use it if "
        "you have rewards and want to train without a random sampler and without probabilities."
    ),
}
"""Algorithm → a paragraph."""
