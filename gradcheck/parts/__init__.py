"""Judging the parts of a trainer alone: the reverse step, the advantage, the moving average, the map to r, the times.

Each ``judge_…`` takes a function and what it declares, and returns a
:class:`gradcheck.judging.results.Judgement`, which :func:`gradcheck.reports.text.judgement_text` prints.
"""

from __future__ import annotations

from gradcheck.parts.advantage import AdvantageConvention, judge_advantage
from gradcheck.parts.ema import SCHEDULES, judge_ema
from gradcheck.parts.reward_map import RewardMapConvention, judge_reward_map
from gradcheck.parts.sde_step import SdeStepConvention, judge_sde_step
from gradcheck.parts.time_sampler import TimeSamplerConvention, judge_time_sampler, shifted

__all__ = [
    "SCHEDULES",
    "AdvantageConvention",
    "RewardMapConvention",
    "SdeStepConvention",
    "TimeSamplerConvention",
    "judge_advantage",
    "judge_ema",
    "judge_reward_map",
    "judge_sde_step",
    "judge_time_sampler",
    "shifted",
]
